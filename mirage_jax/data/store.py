"""The training pictures on the device, and clips drawn from them inside jit.

Everything decoded sits on the device as uint8. A training step draws clips from it:
frame numbers, one homography a frame, one gather, one warp, colour jitter. Only the
drawn clips are ever float.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from mirage_jax.data import camera_path, jitter
from mirage_jax.data.shards import read_manifest, read_shards
from mirage_jax.data.warp import warp

AnyArray = Array | np.ndarray

_ANCHOR_GAP = (8, 200)  # frames between an anchor and the clip it opens; log-uniform
_STRIDE_SHARES = (0.5, 0.3, 0.2)  # of stride 1, 2, 3
_CLIP_ZOOM = 0.4  # the closest crop shows 1 - this of the frame's side
_CLIP_ROLL = 0.08  # radians
_CLIP_TILT = 0.04

_TIME_DRAWS = 6
VIEW_DRAWS = 9


@struct.dataclass
class FrameStore:
    """All training pictures; numpy on the host or arrays on a device.

    Clip i is frames[clip_start[i] : clip_start[i] + clip_length[i]], consecutive in
    time; it is drawn in proportion to clip_weight[i].
    """

    frames: UInt8[AnyArray, "F H0 W0 3"]
    clip_start: Int[AnyArray, " c"]
    clip_length: Int[AnyArray, " c"]
    clip_weight: Float[AnyArray, " c"]
    photos: UInt8[AnyArray, "P S S 3"]


@struct.dataclass
class Clip:
    """Consecutive frames, float32 in [0, 1].

    Where `anchored`, frame 0 comes from 8 to 200 frames before frame 1 and the others
    are consecutive.
    """

    frames: Float[Array, "n T h w 3"]
    anchored: Bool[Array, " n"]


def sample_clips(
    store: FrameStore,
    key: Key[Array, ""],
    count: int,
    frames: int,
    size: tuple[int, int],
    anchor_probability: float | Float[Array, ""] = 0.0,
) -> Clip:
    """Draw real clips: crop, zoom, flip, roll and colours fixed within a clip.

    Played at stride 1 to 3, forwards or backwards. A clip of the store that is too
    short is played to and fro; frames of two clips are never mixed.

    Args:
      store: on the device (or numpy).
      key: same key, same clips.
      count, frames: clips and frames a clip (T >= 2 for anchors).
      size: (height, width) of the result.
      anchor_probability: share of clips that open with an older frame, where the
        clip of the store is long enough.

    Raises:
      ValueError: the store holds no clips.
    """
    if store.frames.shape[0] == 0 or store.clip_start.shape[0] == 0:
        raise ValueError(f"the store holds no clips: {store.frames.shape=}")
    source = _height_width(store.frames)

    draws = jax.random.uniform(key, (count, _TIME_DRAWS + VIEW_DRAWS + jitter.DRAWS))
    in_time, in_view, in_colour = jnp.split(
        draws, (_TIME_DRAWS, _TIME_DRAWS + VIEW_DRAWS), axis=1
    )
    position, anchored = jax.vmap(
        lambda d: _draw_times(store, d, frames, anchor_probability)
    )(in_time)
    maps = jax.vmap(lambda d: clip_view(d, source, size))(in_view)
    maps = jnp.broadcast_to(maps[:, None], (count, frames, 3, 3))
    # Whole frames first: a small copy that the warp can index with 32 bits.
    pictures = jnp.take(store.frames, position, axis=0, mode="clip")
    views = warp(pictures, maps, size)
    return Clip(jax.vmap(jitter.jitter_colour)(in_colour, views), anchored)


def sample_paths(
    store: FrameStore,
    key: Key[Array, ""],
    count: int,
    frames: int,
    size: tuple[int, int],
    anchor_probability: float | Float[Array, ""] = 0.0,
) -> Clip:
    """Draw photographs seen by a moving camera (`camera_path`); as `sample_clips`.

    Raises:
      ValueError: the store holds no photographs.
    """
    if store.photos.shape[0] == 0:
        raise ValueError(f"the store holds no photographs: {store.photos.shape=}")
    source = _height_width(store.photos)

    draws = jax.random.uniform(key, (count, 4 + camera_path.DRAWS + jitter.DRAWS))

    def one(draws: Float[Array, " d"]) -> tuple[Array, ...]:
        choice, coin, spread, mirror = draws[:4]
        photo = jnp.floor(choice * store.photos.shape[0]).astype(jnp.int32)
        gap = _anchor_gap(spread, jnp.float32(_ANCHOR_GAP[1]))
        anchored = coin < anchor_probability
        times = jnp.arange(frames, dtype=jnp.float32)
        times = times.at[0].set(jnp.where(anchored, 1.0 - gap, 0.0))
        path = camera_path.draw_path(draws[4 : 4 + camera_path.DRAWS])
        pose = camera_path.poses(path, times)
        maps = camera_path.homographies(pose, source, size)
        maps = camera_path.flip(maps, mirror < 0.5)
        return photo, maps, pose[:, camera_path.LOG_EXPOSURE], anchored

    photo, maps, exposure, anchored = jax.vmap(one)(draws)
    pictures = jnp.take(store.photos, photo, axis=0, mode="clip")
    # The inner map is over time: all frames of a clip read one photograph.
    look = jax.vmap(jax.vmap(lambda p, m: warp(p, m, size), in_axes=(None, 0)))
    views = look(pictures, maps)
    in_colour = draws[:, 4 + camera_path.DRAWS :]
    return Clip(jax.vmap(jitter.jitter_colour)(in_colour, views, exposure), anchored)


def _height_width(pictures: AnyArray) -> tuple[int, int]:
    return pictures.shape[-3], pictures.shape[-2]


def _anchor_gap(draw: Array, longest: Array) -> Float[Array, ""]:
    """Frames between an anchor and its clip, log-uniform, a whole number."""
    low, high = _ANCHOR_GAP
    return jnp.floor(low * (jnp.clip(longest, low, high) / low) ** draw)


def choose(draw: Array, weights: Float[Array, " n"]) -> Int[Array, ""]:
    """A number in 0..n-1, as likely as its weight; `draw` is uniform in [0, 1)."""
    ends = jnp.cumsum(weights)
    number = jnp.sum(ends <= draw * ends[-1], dtype=jnp.int32)
    return jnp.minimum(number, weights.shape[0] - 1)


def _draw_times(
    store: FrameStore,
    draws: Float[Array, " 6"],
    frames: int,
    anchor_probability: float | Float[Array, ""],
) -> tuple[Int[Array, " T"], Bool[Array, ""]]:
    """Frame numbers in the store of one drawn clip; and if it is anchored."""
    clip = choose(draws[0], jnp.asarray(store.clip_weight))
    last = jnp.asarray(store.clip_length)[clip] - 1
    stride = 1 + choose(draws[1], jnp.array(_STRIDE_SHARES))
    # Frames 1.. are consecutive; an anchor must fit before them.
    longest = (last - max(frames - 2, 0) * stride) // stride
    anchored = (draws[2] < anchor_probability) & (longest >= _ANCHOR_GAP[0])
    gap = _anchor_gap(draws[3], longest.astype(jnp.float32)).astype(jnp.int32)
    steps = jnp.arange(frames, dtype=jnp.int32)
    steps = jnp.where(anchored, steps - 1 + gap, steps).at[0].set(0) * stride
    room = jnp.maximum(last - steps[-1], 0)
    first = jnp.floor(draws[4] * (room + 1)).astype(jnp.int32)
    # To and fro where the clip is too short: fold at both ends.
    period = jnp.maximum(2 * last, 1)
    position = (first + steps) % period
    position = jnp.minimum(position, period - position)
    position = jnp.where(last > 0, position, 0)
    position = jnp.where(draws[5] < 0.5, position, last - position)
    return jnp.asarray(store.clip_start)[clip] + position, anchored


def clip_view(
    draws: Float[Array, " 9"], source: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "3 3"]:
    """The crop, zoom, flip, roll and tilt of a real clip, as a homography.

    Args:
      draws: VIEW_DRAWS numbers, uniform in [0, 1).
      source, size: (height, width) of the clip and of the result.
    """
    upright, flat, flipped = draws[6] < 0.5, draws[7] < 0.5, draws[8] < 0.5
    spread = 2.0 * draws[:6] - 1.0
    maps = camera_path.view(
        pan=spread[:2],
        # Squared: full views are what a stream shows, so they are drawn most.
        zoom=1.0 - _CLIP_ZOOM * draws[2] ** 2,
        roll=jnp.where(upright, 0.0, _CLIP_ROLL * spread[3]),
        tilt=jnp.where(flat, 0.0, _CLIP_TILT * spread[4:6]),
        source=source,
        size=size,
    )
    return camera_path.flip(maps, flipped)


def load_store(folder: str | Path) -> FrameStore:
    """Read a folder written by `experiments/prepare_data.py`, as numpy arrays.

    Raises:
      MirageError: no such folder, or it is incomplete or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    clips, photos = manifest["clips"], manifest["photos"]
    lengths = [clip["frames"] for clip in clips]
    segments = [segment for clip in clips for segment in clip["segments"]]

    return FrameStore(
        frames=read_shards(folder, segments, manifest["frame_size"]),
        clip_start=(np.cumsum(lengths) - lengths).astype(np.int32),
        clip_length=np.array(lengths, np.int32),
        clip_weight=np.array([clip["weight"] for clip in clips], np.float32),
        photos=read_shards(folder, photos, manifest["photo_size"]),
    )


def synthetic_store(
    key: Key[Array, ""],
    clips: int = 3,
    length: int = 24,
    frame_size: tuple[int, int] = (48, 64),
    photos: int = 4,
    photo_size: int = 64,
) -> FrameStore:
    """A tiny store for tests and smoke runs: soft discs that move over gradients."""
    draws = np.asarray(jax.random.uniform(key, (clips + photos, 7, 8)))
    times = np.arange(length) / length
    movies = [_moving_discs(d, times, frame_size) for d in draws[:clips]]
    square = (photo_size, photo_size)
    stills = [_moving_discs(d, np.zeros(1), square) for d in draws[clips:]]
    return FrameStore(
        frames=jnp.asarray(np.concatenate(movies)),
        clip_start=jnp.arange(clips, dtype=jnp.int32) * length,
        clip_length=jnp.full(clips, length, jnp.int32),
        clip_weight=jnp.ones(clips, jnp.float32),
        photos=jnp.asarray(np.concatenate(stills)),
    )


def _moving_discs(
    draws: Float[np.ndarray, "7 8"],
    times: Float[np.ndarray, " T"],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "T h w 3"]:
    """Six discs on circles, one turn a unit of time, over a two-colour gradient."""
    y = ((np.arange(size[0]) + 0.5) / size[0])[:, None, None]
    x = ((np.arange(size[1]) + 0.5) / size[1])[None, :, None]
    frames = []
    for time in times:
        picture = draws[6, :3] + (draws[6, 3:6] - draws[6, :3]) * 0.5 * (x + y)
        for *colour, at_y, at_x, radius, orbit, phase in draws[:6]:
            angle = 2 * np.pi * (time + phase)
            away_y = y - at_y - 0.3 * orbit * np.sin(angle)
            away_x = x - at_x - 0.3 * orbit * np.cos(angle)
            away = 0.05 + 0.15 * radius - np.hypot(away_y, away_x)
            cover = 0.5 + 0.5 * np.tanh(20.0 * away)
            picture = picture * (1 - cover) + np.array(colour) * cover
        frames.append(np.round(picture * 255.0).astype(np.uint8))
    return np.stack(frames)
