"""What a mere change of colours reaches: baselines fitted to the teacher itself.

Every fit is by least squares over a whole clip and sees the very frames that it is
judged on, so that the baseline is the best of its kind and flattered if anything.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

LEVELS = 256
# Bins along each axis of the colour cube: fine enough that steep colour maps
# (a heat camera's palette) lose little, few enough to fit in a GPU's cache.
CUBE_LEVELS = 64


def fit_affine(
    source: UInt8[Array, "T H W 3"], target: UInt8[Array, "T H W 3"]
) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """Gain and offset of every channel, for pictures in [0, 1]."""
    return _affine(*_statistics(source, target))


def fit_lookup(
    source: UInt8[Array, "T H W 3"], target: UInt8[Array, "T H W 3"]
) -> Float[Array, "3 256"]:
    """The best function of each channel's own value: the target's mean at each value.

    No per-channel colour transfer of the clip, monotone or not, has a smaller squared
    error. Values that the source never takes get the best affine map.
    """
    counts, means = _statistics(source, target)
    gain, offset = _affine(counts, means)
    line = gain[:, None] * _levels() + offset[:, None]
    return jnp.where(counts > 0, means, line)


def apply_lookup(
    table: Float[Array, "3 256"], source: UInt8[Array, "*lead H W 3"]
) -> Float[Array, "*lead H W 3"]:
    """Every channel through its table, clipped to [0, 1]."""
    channels = [table[c][source[..., c].astype(jnp.int32)] for c in range(3)]
    return jnp.clip(jnp.stack(channels, axis=-1), 0, 1)


def fit_cube(
    source: UInt8[Array, "T H W 3"], target: UInt8[Array, "T H W 3"]
) -> Float[Array, "cells 3"]:
    """The best function of a pixel's whole colour, over `CUBE_LEVELS`^3 cells.

    It mixes channels, so it reaches what no per-channel transfer can; a style that it
    matches is a colour map and nothing more. Cells without a pixel hold zero.
    """

    def add(total: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        pixels, values = frame
        values = values.reshape(-1, 3).astype(jnp.int32)
        sums = _binned(_cell(pixels).reshape(-1), values, CUBE_LEVELS**3)
        return total + sums.astype(jnp.float32), None

    total = jnp.zeros((CUBE_LEVELS**3, 4), jnp.float32)
    total, _ = jax.lax.scan(add, total, (source, target))
    return total[:, :3] / jnp.maximum(total[:, 3:], 1) / 255


def apply_cube(
    table: Float[Array, "cells 3"], source: UInt8[Array, "*lead H W 3"]
) -> Float[Array, "*lead H W 3"]:
    """Every pixel's colour through the cube."""
    return table[_cell(source)]


def _statistics(source: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of every channel and source value: pixels [3, 256], the target's mean [3, 256].

    Any least-squares fit of a channel needs no more than these.
    """

    def add(total: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        pixels, values = (picture.reshape(-1, 3).astype(jnp.int32) for picture in frame)
        sums = jnp.stack(
            [_binned(pixels[:, c], values[:, c : c + 1], LEVELS) for c in range(3)]
        )
        return total + sums.astype(jnp.float32), None

    total = jnp.zeros((3, LEVELS, 2), jnp.float32)
    total, _ = jax.lax.scan(add, total, (source, target))
    counts = total[..., 1]
    return counts, total[..., 0] / jnp.maximum(counts, 1) / 255


def _affine(counts: jax.Array, means: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)  # [3, 256]
    source_mean = jnp.sum(weight * _levels(), -1, keepdims=True)
    target_mean = jnp.sum(weight * means, -1, keepdims=True)
    deviation = _levels() - source_mean
    variance = jnp.sum(weight * deviation**2, -1)
    covariance = jnp.sum(weight * deviation * (means - target_mean), -1)
    # A channel of one single value maps to the target's mean.
    gain = jnp.where(variance > 1e-9, covariance / jnp.maximum(variance, 1e-9), 0.0)
    return gain, target_mean[:, 0] - gain * source_mean[:, 0]


def _binned(index: jax.Array, values: jax.Array, bins: int) -> jax.Array:
    """Sums of values [n, c] and, last, the count, in each bin [bins, c + 1].

    In int32, one frame at a time: float32 would stop counting at 2^24.
    """
    ones = jnp.ones((values.shape[0], 1), jnp.int32)
    zeros = jnp.zeros((bins, values.shape[1] + 1), jnp.int32)
    return zeros.at[index].add(jnp.concatenate([values, ones], axis=-1))


def _cell(source: jax.Array) -> jax.Array:
    level = source.astype(jnp.int32) * CUBE_LEVELS // 256
    return (level[..., 0] * CUBE_LEVELS + level[..., 1]) * CUBE_LEVELS + level[..., 2]


def _levels() -> jax.Array:
    return jnp.arange(LEVELS, dtype=jnp.float32)[None] / 255  # [1, 256]
