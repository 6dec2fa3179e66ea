"""The users' own styles: (source, styled) pairs, drawn so that they stay aligned.

A folder of pairs holds `source/NAME.mp4` and `styled/NAME.mp4` (any video or picture
that can be read, the same number of frames and the same size) and `prompts.txt`, one
wording a line. The folder's name is the style's name.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key, UInt8

from mirage_jax.data import camera_path
from mirage_jax.data.shards import Shard, read_manifest, read_shards
from mirage_jax.data.store import VIEW_DRAWS, AnyArray, choose, clip_view
from mirage_jax.data.warp import warp
from mirage_jax.errors import MirageError


@struct.dataclass
class PairStore:
    """All pairs; numpy on the host or arrays on a device.

    Pair i is frames clip_start[i] to clip_start[i] + clip_length[i] of `source` and
    of `styled`; a pair of pictures has length 1. It is of the style
    styles[clip_style[i]].
    """

    source: UInt8[AnyArray, "F H0 W0 3"]
    styled: UInt8[AnyArray, "F H0 W0 3"]
    clip_start: Int[AnyArray, " c"]
    clip_length: Int[AnyArray, " c"]
    clip_style: Int[AnyArray, " c"]
    styles: tuple[str, ...] = struct.field(pytree_node=False)


def load_pairs(folder: str | Path) -> PairStore:
    """Read the pairs of a prepared folder, as numpy arrays.

    Raises:
      MirageError: no such folder, it holds no pairs, or it is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    styles = [style for style in manifest["styles"] if style["pairs"]]
    pairs = [pair for style in styles for pair in style["pairs"]]
    if not pairs:
        raise MirageError(
            f"no pairs in {folder}: prepare them with "
            "python -m experiments.prepare_data --pairs=FOLDER"
        )

    def read(side: str) -> np.ndarray:
        shards: list[Shard] = [shard for pair in pairs for shard in pair[side]]
        return read_shards(folder, shards, manifest["frame_size"])

    lengths = np.array([pair["frames"] for pair in pairs], np.int32)
    numbers = [i for i, style in enumerate(styles) for _ in style["pairs"]]
    return PairStore(
        source=read("source"),
        styled=read("styled"),
        clip_start=(np.cumsum(lengths) - lengths).astype(np.int32),
        clip_length=lengths,
        clip_style=np.array(numbers, np.int32),
        styles=tuple(style["name"] for style in styles),
    )


def sample_pairs(
    store: PairStore,
    key: Key[Array, ""],
    count: int,
    frames: int,
    size: tuple[int, int],
    style: int | Int[Array, ""] | None = None,
) -> tuple[Float[Array, "n T h w 3"], Float[Array, "n T h w 3"]]:
    """Draw (source, styled) clips, both under the same crop, zoom, flip and roll.

    Clips play forwards at their own speed, because the styled side may depend on
    earlier frames; one that is too short stands still at its end. Pictures are seen
    by a moving camera. Colours are left alone.

    Args:
      store: on the device (or numpy).
      key: same key, same clips.
      count, frames: clips and frames a clip.
      size: (height, width) of the result.
      style: number in `store.styles`; None draws from all.

    Returns:
      Two float32 arrays in [0, 1].
    """
    source = store.source.shape[-3], store.source.shape[-2]
    length = jnp.asarray(store.clip_length)
    weight = jnp.sqrt(length.astype(jnp.float32))
    if style is not None:
        weight = jnp.where(jnp.asarray(store.clip_style) == style, weight, 0.0)

    first_of_path = 2 + VIEW_DRAWS
    draws = jax.random.uniform(key, (count, first_of_path + camera_path.DRAWS))

    def one(draws: Float[Array, " d"]) -> tuple[Array, Array]:
        clip = choose(draws[0], weight)
        last = length[clip] - 1
        room = jnp.maximum(last - (frames - 1), 0)
        first = jnp.floor(draws[1] * (room + 1)).astype(jnp.int32)
        position = jnp.minimum(first + jnp.arange(frames), last)
        still = clip_view(draws[2:first_of_path], source, size)
        pose = camera_path.poses(
            camera_path.draw_path(draws[first_of_path:]),
            jnp.arange(frames, dtype=jnp.float32),
        )
        moving = camera_path.homographies(pose, source, size)
        maps = jnp.where(last == 0, moving, still[None])
        return jnp.asarray(store.clip_start)[clip] + position, maps

    position, maps = jax.vmap(one)(draws)

    def look(side: AnyArray) -> Float[Array, "n T h w 3"]:
        return warp(jnp.take(side, position, axis=0, mode="clip"), maps, size)

    return look(store.source), look(store.styled)
