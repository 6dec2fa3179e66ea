"""Picture filters that the styles are made of: blur, shift, gradient, soft ramps.

Everything works on float32 `[..., H, W, C]` and is written for an accelerator: a blur
is a product with a banded matrix along each axis, a shift is a slice. There is no
sorting, no scatter and no big window. Lengths are fractions of min(H, W), so that a
picture looks the same at every size.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def short_side(images: Float[Array, "*n H W C"]) -> int:
    """Pixels of the shorter side: the unit of every length in the styles."""
    return min(images.shape[-3], images.shape[-2])


def colour(
    images: Float[Array, "*n H W C"], rgb: tuple[float, float, float]
) -> Float[Array, "*ones 3"]:
    """A colour with as many axes as `images`, so that the two broadcast."""
    return jnp.asarray(rgb, jnp.float32).reshape((1,) * (images.ndim - 1) + (3,))


def luma(images: Float[Array, "*n H W 3"]) -> Float[Array, "*n H W 1"]:
    """Brightness in [0, 1], channel axis kept."""
    return jnp.sum(images * colour(images, LUMA_WEIGHTS), axis=-1, keepdims=True)


def saturate(
    images: Float[Array, "*n H W 3"], amount: float
) -> Float[Array, "*n H W 3"]:
    """Scales the distance from grey by `amount`; the result is not clipped."""
    grey = luma(images)
    return grey + amount * (images - grey)


@functools.lru_cache(maxsize=256)
def _gaussian_rows(targets: int, sources: int, sigma: float) -> np.ndarray:
    """Matrix `[targets, sources]` that samples a gaussian blur; rows sum to one."""
    places = (np.arange(targets) + 0.5) * (sources / targets) - 0.5
    offsets = np.arange(sources)[None, :] - places[:, None]
    rows = np.exp(-0.5 * np.square(offsets / sigma))
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _blur_factors(size: int, sigma: float) -> tuple[np.ndarray, ...]:
    """Matrices whose product blurs an axis of `size` pixels by `sigma` pixels.

    A wide blur is split into a blur that also thins out the axis and one that fills it
    again; the variances of the two add up to the one asked for.
    """
    factor = 2 ** max(0, math.floor(math.log2(sigma / 1.5)))
    if factor == 1 or size % factor or size // factor < 4:
        return (_gaussian_rows(size, size, sigma),)
    filling = 0.65 * factor
    thinning = math.sqrt(sigma**2 - filling**2)
    small = size // factor
    return (
        _gaussian_rows(small, size, thinning),
        # In units of the thinned-out axis, whose samples lie `factor` pixels apart.
        _gaussian_rows(size, small, 0.65),
    )


def _along(matrix: np.ndarray, images: jax.Array, axis: int) -> jax.Array:
    spec = "ij,...jwc->...iwc" if axis == -3 else "ij,...hjc->...hic"
    # HIGH is TF32 on a GPU (finer than 8-bit video) and never bfloat16 on a TPU.
    return jnp.einsum(spec, matrix, images, precision=jax.lax.Precision.HIGH)


def blur(images: Float[Array, "*n H W C"], fraction: float) -> Float[Array, "*n H W C"]:
    """Gaussian blur with a standard deviation of `fraction` of the short side.

    At the border the kernel is cut off and renormalised, so a constant stays constant.
    """
    sigma = fraction * short_side(images)
    # A narrower kernel than this is the identity within 8-bit precision.
    if sigma < 0.25:
        return images
    rows = _blur_factors(images.shape[-3], sigma)
    columns = _blur_factors(images.shape[-2], sigma)
    images = _along(columns[0], _along(rows[0], images, -3), -2)
    for matrix in columns[1:]:
        images = _along(matrix, images, -2)
    for matrix in rows[1:]:
        images = _along(matrix, images, -3)
    return images


def shift(
    images: Float[Array, "*n H W C"], down: int, right: int
) -> Float[Array, "*n H W C"]:
    """Moves the picture by whole pixels; the border is repeated."""
    height, width = images.shape[-3:-1]
    pad = [(0, 0)] * (images.ndim - 3)
    pad += [(max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0)]
    padded = jnp.pad(images, pad, mode="edge")
    top, left = max(-down, 0), max(-right, 0)
    return padded[..., top : top + height, left : left + width, :]


def gradient(
    images: Float[Array, "*n H W C"],
) -> tuple[Float[Array, "*n H W C"], Float[Array, "*n H W C"]]:
    """Change to the right and downwards per short side (the same at every size)."""
    scale = 0.5 * short_side(images)
    right = scale * (shift(images, 0, -1) - shift(images, 0, 1))
    down = scale * (shift(images, -1, 0) - shift(images, 1, 0))
    return right, down


def smooth_edges(
    images: Float[Array, "*n H W C"], fraction: float, contrast: float
) -> Float[Array, "*n H W C"]:
    """Guided filter, guided by the picture itself.

    He, Sun and Tang, "Guided image filtering" (ECCV 2010), with gaussian windows of
    width `fraction`. Steps larger than `contrast` stay, smaller ones are smoothed.
    """
    channels = images.shape[-1]
    # Squares around the middle lose less to rounding in the variance.
    centred = images - 0.5
    moments = blur(jnp.concatenate([centred, centred * centred], axis=-1), fraction)
    mean = moments[..., :channels]
    variance = jnp.maximum(moments[..., channels:] - mean * mean, 0.0)
    slope = variance / (variance + contrast**2)
    lines = blur(jnp.concatenate([slope, mean - slope * mean], axis=-1), fraction)
    return lines[..., :channels] * centred + lines[..., channels:] + 0.5


def ramp(
    values: Float[Array, "*n H W C"], low: float, high: float
) -> Float[Array, "*n H W C"]:
    """Smooth step from 0 at `low` to 1 at `high` (also falling, for low > high)."""
    part = jnp.clip((values - low) / (high - low), 0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def palette(
    values: Float[Array, "*n H W 1"],
    stops: Sequence[tuple[float, tuple[float, float, float]]],
) -> Float[Array, "*n H W 3"]:
    """Colour of each value: smooth steps between (place, colour) stops, in order."""
    mixed = colour(values, stops[0][1])
    for (low, before), (high, after) in zip(stops, stops[1:], strict=False):
        part = jnp.clip((values - low) / (high - low), 0.0, 1.0)
        mixed = mixed + part * (colour(values, after) - colour(values, before))
    return mixed


def screen(
    images: Float[Array, "*n H W 3"], light: Float[Array, "*n H W 3"]
) -> Float[Array, "*n H W 3"]:
    """Adds light without burning out: both are kept below one."""
    return 1.0 - (1.0 - images) * (1.0 - jnp.clip(light, 0.0, 1.0))


def centre_distance(images: Float[Array, "*n H W C"]) -> Float[Array, "*n H W 1"]:
    """Distance of each pixel from the picture's centre, 1 in the corners."""
    height, width = images.shape[-3:-1]
    down = (jnp.arange(height, dtype=jnp.float32) + 0.5) / height * 2.0 - 1.0
    right = (jnp.arange(width, dtype=jnp.float32) + 0.5) / width * 2.0 - 1.0
    distance = jnp.sqrt((down[:, None] ** 2 + right[None, :] ** 2) / 2.0)
    return distance.reshape((1,) * (images.ndim - 3) + (height, width, 1))
