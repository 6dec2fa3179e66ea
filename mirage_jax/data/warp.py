"""Bilinear warps of pictures by homographies: crops, zooms, rotations, perspective.

Coordinates are normalised and isotropic: the origin is the picture's centre and the
shorter side spans [-1, 1], so a rotation matrix is a rotation at any aspect ratio and
the identity is the largest centred crop that has the output's shorter side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, UInt32

# Shrinking by more than this takes four samples a pixel; below it, one bilinear tap
# (which already averages two source pixels each way) does not alias visibly.
_ANTIALIAS_FROM = 1.25


def half_extent(size: tuple[int, int]) -> tuple[float, float]:
    """Half width and half height of a (height, width) picture, normalised; >= 1."""
    height, width = size
    return width / min(size), height / min(size)


def warp(
    images: Num[Array, "*n H0 W0 3"],
    homographies: Float[Array, "*n 3 3"],
    size: tuple[int, int],
    samples: int | None = None,
) -> Float[Array, "*n h w 3"]:
    """Look at every picture through its homography.

    Args:
      images: uint8 in [0, 255] or float in [0, 1].
      homographies: map normalised output coordinates (x, y, 1) to normalised source
        coordinates; one a picture, same leading axes as `images`.
      size: (height, width) of the result.
      samples: samples a pixel along each axis; by default 2 when the output's shorter
        side is less than the source's over 1.25, else 1. Shapes decide, not the
        homography, because they are static.

    Returns:
      float32 in [0, 1]. Outside of the source the picture is mirrored.

    Raises:
      ValueError: leading axes differ, or the last axes are not as above.
    """
    if images.shape[-1] != 3 or homographies.shape[-2:] != (3, 3):
        raise ValueError(
            f"need [.., H, W, 3] and [.., 3, 3]: {images.shape=} {homographies.shape=}"
        )
    if images.shape[:-3] != homographies.shape[:-2]:
        raise ValueError(f"leading axes differ: {images.shape=} {homographies.shape=}")
    lead = images.shape[:-3]
    source = images.shape[-3:-1]
    if samples is None:
        samples = 2 if min(source) > _ANTIALIAS_FROM * min(size) else 1
    pixels = images.reshape(-1, source[0] * source[1], 3)
    if images.dtype == jnp.uint8:
        pixels = _pack(pixels)
    maps = homographies.astype(jnp.float32).reshape(-1, 3, 3)
    offsets = [(i + 0.5) / samples for i in range(samples)]
    total = jnp.zeros((), jnp.float32)
    for dy in offsets:
        for dx in offsets:
            total += _bilinear(pixels, _look_up(maps, size, (dy, dx)), source)
    return (total / len(offsets) ** 2).reshape(*lead, *size, 3)


def _pack(pixels: Num[Array, "n P 3"]) -> UInt32[Array, "n P"]:
    """Three bytes in one word: a gather then loads a pixel at once."""
    red, green, blue = (pixels[..., i].astype(jnp.uint32) for i in range(3))
    return red | (green << 8) | (blue << 16)


def _fetch(pixels: Array, index: Array) -> Float[Array, "n q 3"]:
    if pixels.ndim == 3:
        return jnp.take_along_axis(
            pixels, index[..., None], axis=1, mode="promise_in_bounds"
        ).astype(jnp.float32)
    word = jnp.take_along_axis(pixels, index, axis=1, mode="promise_in_bounds")
    channels = [(word >> shift) & 255 for shift in (0, 8, 16)]
    return jnp.stack(channels, axis=-1).astype(jnp.float32) * (1.0 / 255.0)


def _look_up(
    maps: Float[Array, "n 3 3"], size: tuple[int, int], offset: tuple[float, float]
) -> tuple[Array, Array]:
    """Normalised source coordinates of every output pixel, each [n, h * w]."""
    height, width = size
    y = (2.0 * (jnp.arange(height) + offset[0]) - height) / min(size)
    x = (2.0 * (jnp.arange(width) + offset[1]) - width) / min(size)
    y, x = (a.reshape(1, -1) for a in jnp.meshgrid(y, x, indexing="ij"))

    # Written out: a float32 matmul may run in TF32, which is off by half a pixel.
    def row(i: int) -> Array:
        return maps[:, i, 0, None] * x + maps[:, i, 1, None] * y + maps[:, i, 2, None]

    depth = row(2)
    return row(0) / depth, row(1) / depth


def _bilinear(
    pixels: Array, where: tuple[Array, Array], source: tuple[int, ...]
) -> Float[Array, "n q 3"]:
    height, width = source
    short = min(source)
    x0, x1, fx = _taps(0.5 * (where[0] * short + width), width)
    y0, y1, fy = _taps(0.5 * (where[1] * short + height), height)
    fx, fy = fx[..., None], fy[..., None]
    top = (1 - fx) * _fetch(pixels, y0 * width + x0) + fx * _fetch(
        pixels, y0 * width + x1
    )
    low = (1 - fx) * _fetch(pixels, y1 * width + x0) + fx * _fetch(
        pixels, y1 * width + x1
    )
    return (1 - fy) * top + fy * low


def _taps(position: Array, length: int) -> tuple[Array, Array, Array]:
    """The two pixels around a position in [0, length], mirrored, and the fraction."""
    folded = jnp.mod(position, 2.0 * length)
    folded = jnp.minimum(folded, 2.0 * length - folded) - 0.5
    folded = jnp.clip(folded, 0.0, length - 1.0)
    first = jnp.floor(folded)
    index = jax.lax.convert_element_type(first, jnp.int32)
    return index, jnp.minimum(index + 1, length - 1), folded - first
