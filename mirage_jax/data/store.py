"""The training pictures on the device, and clips drawn from them inside jit.

Everything decoded sits on the device as uint8. A training step draws clips from it:
frame numbers, one homography a frame, one gather, one warp, colour jitter. Only the
drawn clips are ever float.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from mirage_jax.data import camera_path
from mirage_jax.data.jitter import jitter_colour
from mirage_jax.data.shards import read_manifest, read_shards
from mirage_jax.data.warp import warp

AnyArray = Array | np.ndarray

_ANCHOR_GAP = (8, 200)  # frames between an anchor and the clip it opens; log-uniform
_STRIDE_SHARES = (0.5, 0.3, 0.2)  # of stride 1, 2, 3
_CLIP_ZOOM = 0.4  # the closest crop shows 1 - this of the frame's side
_CLIP_ROLL = 0.08  # radians
_CLIP_TILT = 0.04


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

    def one(key: Key[Array, ""]) -> tuple[Array, Array, Array, Array]:
        time_key, view_key, colour_key = jax.random.split(key, 3)
        position, anchored = _draw_times(store, time_key, frames, anchor_probability)
        return position, clip_view(view_key, source, size), anchored, colour_key

    position, maps, anchored, colour_keys = jax.vmap(one)(jax.random.split(key, count))
    maps = jnp.broadcast_to(maps[:, None], (count, frames, 3, 3))
    # Whole frames first: a small copy that the warp can index with 32 bits.
    pictures = jnp.take(store.frames, position, axis=0, mode="clip")
    views = warp(pictures, maps, size)
    return Clip(jax.vmap(jitter_colour)(colour_keys, views), anchored)


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

    def one(key: Key[Array, ""]) -> tuple[Array, ...]:
        keys = jax.random.split(key, 6)
        photo = jax.random.randint(keys[0], (), 0, store.photos.shape[0])
        anchored, gap = _draw_anchor(keys[1], anchor_probability)
        times = jnp.arange(frames, dtype=jnp.float32)
        times = times.at[0].set(jnp.where(anchored, 1.0 - gap, 0.0))
        pose = camera_path.poses(camera_path.draw_path(keys[2]), times)
        maps = camera_path.homographies(pose, source, size)
        maps = camera_path.flip(maps, jax.random.bernoulli(keys[3]))
        exposure = pose[:, camera_path.LOG_EXPOSURE]
        return photo, maps, exposure, anchored, keys[4]

    photo, maps, exposure, anchored, colour_keys = jax.vmap(one)(
        jax.random.split(key, count)
    )
    pictures = jnp.take(store.photos, photo, axis=0, mode="clip")
    # Axis 1 of the warp is time: one photograph, read by all frames of its clip.
    look = jax.vmap(
        lambda picture, maps: jax.vmap(lambda m: warp(picture, m, size))(maps)
    )
    views = look(pictures, maps)
    return Clip(jax.vmap(jitter_colour)(colour_keys, views, exposure), anchored)


def _height_width(pictures: AnyArray) -> tuple[int, int]:
    return pictures.shape[-3], pictures.shape[-2]


def _draw_anchor(
    key: Key[Array, ""],
    probability: float | Float[Array, ""],
    longest: Array | None = None,
) -> tuple[Array, Array]:
    """Whether to anchor, and the gap in frames (float, whole numbers)."""
    coin, size = jax.random.uniform(key, (2,))
    low, high = _ANCHOR_GAP
    top = jnp.float32(high) if longest is None else jnp.clip(longest, low, high)
    gap = jnp.floor(low * (top / low) ** size)
    return coin < probability, gap


def _draw_times(
    store: FrameStore,
    key: Key[Array, ""],
    frames: int,
    anchor_probability: float | Float[Array, ""],
) -> tuple[Array, Array]:
    """Frame numbers in the store, int32 [T], of one drawn clip; and if anchored."""
    keys = jax.random.split(key, 5)
    clip = jax.random.categorical(keys[0], jnp.log(jnp.asarray(store.clip_weight)))
    start = jnp.asarray(store.clip_start)[clip]
    length = jnp.asarray(store.clip_length)[clip]
    shares = jnp.log(jnp.array(_STRIDE_SHARES))
    stride = 1 + jax.random.categorical(keys[1], shares)
    last = length - 1
    # Frames 1.. are consecutive; an anchor must fit before them.
    longest = (last - max(frames - 2, 0) * stride) // stride
    anchored, gap = _draw_anchor(keys[2], anchor_probability, longest)
    anchored = anchored & (longest >= _ANCHOR_GAP[0])
    steps = jnp.arange(frames)
    steps = jnp.where(anchored, steps - 1 + gap.astype(jnp.int32), steps)
    steps = steps.at[0].set(0) * stride
    room = jnp.maximum(last - steps[-1], 0)
    first = jax.random.randint(keys[3], (), 0, room + 1)
    position = first + steps
    # To and fro where the clip is too short: fold at both ends.
    period = jnp.maximum(2 * last, 1)
    position = position % period
    position = jnp.minimum(position, period - position)
    position = jnp.where(last > 0, position, 0)
    position = jnp.where(jax.random.bernoulli(keys[4]), last - position, position)
    return start + position, anchored


def clip_view(
    key: Key[Array, ""], source: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "3 3"]:
    """Draw the crop, zoom, flip, roll and tilt of a real clip, as a homography."""
    keys = jax.random.split(key, 3)
    pan, (depth, roll), tilt = jax.random.uniform(keys[0], (3, 2), minval=-1.0)
    upright, flat, flipped = jax.random.bernoulli(keys[1], 0.5, (3,))
    maps = camera_path.view(
        pan=pan,
        # Squared: full views are what a stream shows, so they are drawn most.
        zoom=1.0 - _CLIP_ZOOM * depth**2,
        roll=jnp.where(upright, 0.0, _CLIP_ROLL * roll),
        tilt=jnp.where(flat, 0.0, _CLIP_TILT * tilt),
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


@functools.partial(jax.jit, static_argnums=range(1, 6))
def synthetic_store(
    key: Key[Array, ""],
    clips: int = 3,
    length: int = 24,
    frame_size: tuple[int, int] = (48, 64),
    photos: int = 4,
    photo_size: int = 64,
) -> FrameStore:
    """A tiny store for tests and smoke runs: soft discs that move over gradients."""
    clip_key, photo_key = jax.random.split(key)
    times = jnp.arange(length) / length
    movies = jax.vmap(lambda k: _moving_discs(k, times, frame_size))(
        jax.random.split(clip_key, clips)
    )
    stills = jax.vmap(
        lambda k: _moving_discs(k, jnp.zeros(1), (photo_size, photo_size))[0]
    )(jax.random.split(photo_key, photos))
    return FrameStore(
        frames=movies.reshape(clips * length, *frame_size, 3),
        clip_start=jnp.arange(clips, dtype=jnp.int32) * length,
        clip_length=jnp.full(clips, length, jnp.int32),
        clip_weight=jnp.ones(clips, jnp.float32),
        photos=stills,
    )


def _moving_discs(
    key: Key[Array, ""], times: Float[Array, " T"], size: tuple[int, int]
) -> UInt8[Array, "T h w 3"]:
    """Six discs on circles, one turn a unit of time, over a two-colour gradient."""
    keys = jax.random.split(key, 4)
    ends = jax.random.uniform(keys[0], (2, 1, 1, 3))
    colours = jax.random.uniform(keys[1], (6, 1, 1, 3))
    centre = jax.random.uniform(keys[2], (6, 2))
    radius, orbit, phase = jax.random.uniform(keys[3], (3, 6))
    y = ((jnp.arange(size[0]) + 0.5) / size[0])[:, None, None]
    x = ((jnp.arange(size[1]) + 0.5) / size[1])[None, :, None]

    def frame(time: Array) -> Array:
        angle = 2 * jnp.pi * (time + phase)
        picture = ends[0] + (ends[1] - ends[0]) * 0.5 * (x + y)
        for i in range(6):
            at_y = centre[i, 0] + 0.3 * orbit[i] * jnp.sin(angle[i])
            at_x = centre[i, 1] + 0.3 * orbit[i] * jnp.cos(angle[i])
            away = jnp.sqrt((y - at_y) ** 2 + (x - at_x) ** 2)  # [h, w, 1]
            inside = jax.nn.sigmoid((0.05 + 0.15 * radius[i] - away) * 40.0)
            picture = picture * (1 - inside) + colours[i] * inside
        return jnp.round(picture * 255.0).astype(jnp.uint8)

    return jax.vmap(frame)(times)
