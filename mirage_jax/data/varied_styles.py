"""Styles of one frame with several looks under the same prompt: the clip chooses one.

Nothing in source or prompt says which variant a clip gets, so a stream can only make a
choice in its first frame and read the choice from its own past after that. Each look is
a function of pictures, float32 `[..., H, W, 3]` in [0, 1], and of the variant, an
integer in [0, `VARIANTS`). What a variant adds stays with the frame and not with what
moves in it, as a pane of glass before the camera would. Lengths are fractions of
min(H, W).
"""

import math
from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mirage_jax.data.filters import (
    blur,
    luma,
    palette,
    ramp,
    saturate,
    short_side,
    smooth_edges,
)

Images = Float[Array, "*n H W 3"]
Look = Callable[[Images, Int[Array, ""]], Images]

VARIANTS = 4

# Five inks each, dark to light, of about the same brightness from set to set.
_INKS = (
    ((0.10, 0.08, 0.30), (0.38, 0.18, 0.55), (0.88, 0.33, 0.45), (0.99, 0.72, 0.47)),
    ((0.03, 0.15, 0.17), (0.02, 0.36, 0.40), (0.22, 0.62, 0.46), (0.70, 0.84, 0.40)),
    ((0.20, 0.03, 0.08), (0.58, 0.09, 0.12), (0.93, 0.38, 0.08), (0.99, 0.74, 0.18)),
    ((0.05, 0.07, 0.26), (0.09, 0.28, 0.66), (0.33, 0.60, 0.90), (0.97, 0.66, 0.80)),
)
_PAPERS = ((1.0, 0.95, 0.82), (0.98, 0.97, 0.80), (1.0, 0.96, 0.76), (1.0, 0.94, 0.96))
_RIBS = 16  # along the short side: a token each at 512 pixels
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # down, right: across the ribs


def screen_print(images: Images, variant: Int[Array, ""]) -> Images:
    """Four inks and the paper, by steps of brightness; the variant is their set."""
    flat = smooth_edges(smooth_edges(images, 0.010, 0.10), 0.014, 0.08)
    tone = ramp(luma(flat), -0.05, 1.0)
    levels = 5.0
    place = jnp.clip(tone, 0.0, 0.999) * levels
    inside = place - jnp.floor(place) - 0.5
    steps = jnp.floor(place) + 0.5 + 0.5 * jnp.tanh(6.0 * inside) / math.tanh(3.0)
    sets = [
        palette(
            steps / levels,
            tuple((n / 4.0, rgb) for n, rgb in enumerate((*inks, paper))),
        )
        for inks, paper in zip(_INKS, _PAPERS, strict=True)
    ]
    return jnp.take(jnp.stack(sets), variant, axis=0, mode="clip")


def ribbed_glass(images: Images, variant: Int[Array, ""]) -> Images:
    """Colours gathered by the ribs of a pane; the variant is the ribs' direction."""
    height, width = images.shape[-3:-1]
    rib = short_side(images) / _RIBS  # pixels
    down, right = np.mgrid[:height, :width]
    moved, relief = [], []
    for y, x in _DIRECTIONS:
        across = (y * (down + 0.5) + x * (right + 0.5)) / rib
        place = across - np.floor(across) - 0.5
        # All of a rib shows what lies behind its middle line.
        to_middle = place * rib / (y * y + x * x)
        rows = np.clip(np.rint(down - y * to_middle), 0, height - 1)
        columns = np.clip(np.rint(right - x * to_middle), 0, width - 1)
        moved.append((rows * width + columns).astype(np.int32).reshape(-1))
        relief.append(np.cos(2 * math.pi * place) + 0.8 * np.sin(2 * math.pi * place))
    pick = partial(jnp.take, indices=variant, axis=0, mode="clip")
    calm = smooth_edges(blur(images, 0.004), 0.012, 0.05)
    flat = calm.reshape(*images.shape[:-3], height * width, 3)
    seen = jnp.take(flat, pick(jnp.asarray(np.stack(moved))), axis=-2)
    seen = seen.reshape(images.shape)
    # Some of the picture passes straight: eyes are smaller than a rib.
    seen = seen + 0.45 * (calm - seen)
    seen = saturate(seen + 0.35 * (ramp(seen, 0.0, 1.0) - seen), 1.5)
    gleam = pick(jnp.asarray(np.stack(relief), jnp.float32))
    gleam = gleam.reshape((1,) * (images.ndim - 3) + (height, width, 1))
    return jnp.clip(blur(seen * (1.0 + 0.13 * gleam), 0.002), 0.0, 1.0)


VARIED_STYLES: MappingProxyType[str, Look] = MappingProxyType(
    {"screen_print": screen_print, "ribbed_glass": ribbed_glass}
)
