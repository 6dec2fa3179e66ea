"""Measures of a styled picture against the teacher's, in float32.

Pictures are floats in [0, 1] of shape [..., H, W, 3]; every measure keeps the leading
axes and returns one number a picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

PSNR_LIMIT = 100.0  # dB; what identical pictures get instead of infinity
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Whether a picture stands still is asked of cells as large as those of the codec's
# latents: a single pixel may stay as it is by chance in the midst of what moves.
CELL = 16  # pixels
# The root of its mean squared change up to which a cell stands still, in levels of
# 8 bits; between two and three, so that no rounding decides what counts.
STILL = 2.5

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def psnr(
    images: Float[Array, "*lead H W C"], targets: Float[Array, "*lead H W C"]
) -> Float[Array, "*lead"]:
    """Peak signal-to-noise ratio in dB, at most `PSNR_LIMIT`."""
    _check(images, targets)
    difference = images.astype(jnp.float32) - targets.astype(jnp.float32)
    error = jnp.mean(jnp.square(difference), axis=(-3, -2, -1))
    return -10 * jnp.log10(jnp.maximum(error, 10 ** (-PSNR_LIMIT / 10)))


def ssim(
    images: Float[Array, "*lead H W C"], targets: Float[Array, "*lead H W C"]
) -> Float[Array, "*lead"]:
    """Structural similarity of the channels, averaged; 1 for identical pictures.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", 2004: 11x11 gaussian window with sigma 1.5, K1 = 0.01,
    K2 = 0.03, only windows that lie wholly inside. The paper measures luminance: pass
    `luma(images)` for its number.

    Raises:
      ValueError: the pictures differ in shape or are smaller than the window.
    """
    _check(images, targets)
    height, width = images.shape[-3:-1]
    if min(height, width) < _SSIM_WINDOW:
        raise ValueError(f"{height=} and {width=} must be at least {_SSIM_WINDOW}")
    x = images.astype(jnp.float32)
    y = targets.astype(jnp.float32)
    # Deviations from mid-grey: the variances below are differences of squares, and
    # smaller squares lose less in float32. The means get it back.
    x, y = x - 0.5, y - 0.5
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x * mean_x
    variance_y = _window(y * y) - mean_y * mean_y
    covariance = _window(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    structure = (2 * covariance + _SSIM_C2) / (variance_x + variance_y + _SSIM_C2)
    light = (2 * mean_x * mean_y + _SSIM_C1) / (
        mean_x * mean_x + mean_y * mean_y + _SSIM_C1
    )
    return jnp.mean(structure * light, axis=(-3, -2, -1))


def luma(images: Float[Array, "*lead H W 3"]) -> Float[Array, "*lead H W 1"]:
    """Luminance of RGB, BT.601."""
    images = images.astype(jnp.float32)
    red, green, blue = (images[..., channel] for channel in range(3))
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[..., None]


def sharpness(images: Float[Array, "*lead H W 3"]) -> Float[Array, "*lead"]:
    """Mean absolute luminance step between neighbours; blur lowers it."""
    gray = luma(images)
    down = jnp.abs(gray[..., 1:, :, :] - gray[..., :-1, :, :])
    right = jnp.abs(gray[..., :, 1:, :] - gray[..., :, :-1, :])
    axes = (-3, -2, -1)
    return (jnp.mean(down, axis=axes) + jnp.mean(right, axis=axes)) / 2


def colour_mean(images: Float[Array, "*lead H W 3"]) -> Float[Array, "*lead 3"]:
    """Mean of every channel."""
    return jnp.mean(images.astype(jnp.float32), axis=(-3, -2))


def colour_spread(images: Float[Array, "*lead H W 3"]) -> Float[Array, "*lead 3"]:
    """Standard deviation of every channel."""
    return jnp.std(images.astype(jnp.float32), axis=(-3, -2))


def cell_change(
    previous: Float[Array, "*lead H W 3"], current: Float[Array, "*lead H W 3"]
) -> Float[Array, "*lead h w"]:
    """Mean squared change of each cell, in squared levels of 8 bits.

    Raises:
      ValueError: the sides are no multiples of `CELL`.
    """
    height, width = current.shape[-3:-1]
    if height % CELL or width % CELL:
        raise ValueError(f"{current.shape=}: sides must be multiples of {CELL}")
    change = current.astype(jnp.float32) - previous.astype(jnp.float32)
    cells = (height // CELL, CELL, width // CELL, CELL, 3)
    squared = jnp.square(255 * change).reshape(*change.shape[:-3], *cells)
    return jnp.mean(squared, axis=(-4, -2, -1))


def stands_still(change: Float[Array, "*lead h w"]) -> Bool[Array, "*lead h w"]:
    """Cells of the teacher, by `cell_change`, in which a change is flicker."""
    return change <= STILL**2


def flicker(
    previous: Float[Array, "*lead H W 3"],
    current: Float[Array, "*lead H W 3"],
    teacher_previous: Float[Array, "*lead H W 3"],
    teacher_current: Float[Array, "*lead H W 3"],
) -> tuple[Float[Array, "*lead"], Float[Array, "*lead"]]:
    """Mean squared frame change where the teacher stands still.

    Returns:
      `cell_change` of the still cells on average, 0 where there are none, and their
      share of the picture: average the first with the second as weight.
    """
    change = cell_change(previous, current)
    still = stands_still(cell_change(teacher_previous, teacher_current))
    share = jnp.mean(still, axis=(-2, -1))
    moved = jnp.mean(jnp.where(still, change, 0.0), axis=(-2, -1))
    return jnp.where(share > 0, moved / jnp.maximum(share, 1e-9), 0.0), share


def _gaussian() -> np.ndarray:
    offsets = np.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    return (weights / weights.sum()).astype(np.float32)


def _window(x: jax.Array) -> jax.Array:
    """Gaussian mean over every whole window, by shifts.

    A convolution may run in TF32 on a GPU, which the differences of squares in `ssim`
    do not survive; shifted sums fuse into one loop and stay in float32.
    """
    weights = _gaussian()
    for axis in (x.ndim - 3, x.ndim - 2):
        length = x.shape[axis] - _SSIM_WINDOW + 1
        total = jnp.zeros((), jnp.float32)
        for shift, weight in enumerate(weights):
            total = total + float(weight) * jax.lax.slice_in_dim(
                x, shift, shift + length, axis=axis
            )
        x = total
    return x


def _check(images: jax.Array, targets: jax.Array) -> None:
    if images.shape != targets.shape or images.ndim < 3:
        raise ValueError(
            f"two pictures [..., H, W, C] of one shape are needed, not {images.shape} "
            f"and {targets.shape}"
        )
    for array in (images, targets):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"pictures must be floats in [0, 1], not {array.dtype}")
