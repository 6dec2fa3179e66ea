"""The feed-forward style network: one picture in, the picture painted anew out.

One network for all painted styles. Johnson et al. 2016
(https://arxiv.org/abs/1603.08155) for the network trained through VGG features,
Dumoulin et al. 2017 (https://arxiv.org/abs/1610.07629) for the normalisation whose
scale and shift belong to the style.

Two things are our own. Space to depth takes the picture to stride 4 in one step, so
nearly all work happens at 128x128 for a 512x512 frame. And scale and shift also
follow the size of the frame, because brush strokes should be a fraction of the
frame while convolutions count in pixels.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mirage_jax.errors import MirageError
from mirage_jax.weights import load_weights, save_weights

# The order is the style's number in the network.
NEURAL_STYLES = ("starry_night", "wheatfield", "scream", "cafe_terrace", "autumn")

StylerParams = dict[str, Any]

STRIDE = 4
REFERENCE_SIZE = 512


@dataclass(frozen=True)
class StylerConfig:
    """Size of the network; 0.35 M parameters, 14.6 GFLOP for a 512x512 frame.

    Attributes:
      styles: names, in the order of their numbers.
      width: channels at stride 4.
      blocks: residual blocks.
      upsample_widths: channels at strides 2 and 1.
    """

    styles: tuple[str, ...] = NEURAL_STYLES
    width: int = 64
    blocks: int = 4
    upsample_widths: tuple[int, int] = (24, 16)


def init_styler(key: Array, config: StylerConfig = StylerConfig()) -> StylerParams:
    """Fresh float32 weights: {"stem", "blocks", "up1", "up2", "out"}.

    The residual blocks are stacked along a first axis.
    """
    keys = jax.random.split(key, 6)
    styles, width, blocks = len(config.styles), config.width, config.blocks
    up1, up2 = config.upsample_widths

    def convolution(key: Array, inputs: int, outputs: int, *stack: int) -> Array:
        shape = (*stack, 3, 3, inputs, outputs)
        return jax.random.normal(key, shape) * (2.0 / (9 * inputs)) ** 0.5

    def layer(key: Array, inputs: int, outputs: int, *stack: int) -> StylerParams:
        # Scale and shift: the style's own, and what it adds per doubling of the size.
        return {
            "kernel": convolution(key, inputs, outputs, *stack),
            "scale": jnp.zeros((*stack, styles, 2, outputs)),
            "shift": jnp.zeros((*stack, styles, 2, outputs)),
        }

    return {
        "stem": layer(keys[0], 3 * STRIDE**2, width),
        "blocks": {
            "first": layer(keys[1], width, width, blocks),
            "second": layer(keys[2], width, width, blocks),
        },
        "up1": layer(keys[3], width, up1),
        "up2": layer(keys[4], up1, up2),
        "out": {
            "kernel": 0.3 * convolution(keys[5], up2, 3),
            "bias": jnp.zeros((styles, 3)),
        },
    }


def _convolve(x: Array, kernel: Array) -> Array:
    """3x3 convolution; the edge is repeated, since zeros would paint a border."""
    return jax.lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"),
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _layer(x: Array, params: StylerParams, style: int, octave: float) -> Array:
    """Convolution, normalisation over the frame, and the style's scale and shift."""
    x = _convolve(x, params["kernel"])
    wide = x.astype(jnp.float32)
    mean = wide.mean((1, 2), keepdims=True)
    variance = jnp.square(wide - mean).mean((1, 2), keepdims=True)
    scale, shift = params["scale"][style], params["shift"][style]  # [2, C]
    scale = (1.0 + scale[0] + octave * scale[1])[None, None, None]
    shift = (shift[0] + octave * shift[1])[None, None, None]
    gain = scale * jax.lax.rsqrt(variance + 1e-3)  # [n, 1, 1, C]
    return (wide * gain + (shift - mean * gain)).astype(x.dtype)


def _double(x: Array) -> Array:
    """Nearest-neighbour upsampling by two."""
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)


def styler_apply(
    params: StylerParams,
    images: Float[Array, "n H W 3"],
    style: int,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "n H W 3"]:
    """Paints RGB pictures in [0, 1] in one style; float32 in [0, 1] comes back.

    Args:
      params: from `init_styler` or trained weights.
      images: sides must be multiples of 4. Made for frames whose short side is 256
        to 512 pixels; outside of that the strokes keep their size in pixels.
      style: static number of the style, an index of `NEURAL_STYLES`.
      dtype: what convolutions compute in; statistics are float32.

    The statistics are those of the frame alone, never of the batch, so a picture's
    result does not depend on its company. They couple far parts of one frame: a
    bright thing that comes in shifts the rest a little. Averages over a whole frame
    move slowly in video, and whoever imitates the result sees the whole frame too.
    """
    n, height, width, _ = images.shape
    styles = params["out"]["bias"].shape[0]
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"sides must be multiples of {STRIDE}, got {images.shape=}")
    if not 0 <= style < styles:
        raise ValueError(f"{style=} is not in 0..{styles - 1}")
    octave = min(max(math.log2(min(height, width) / REFERENCE_SIZE), -1.0), 0.0)

    x = (2.0 * images - 1.0).astype(dtype)
    x = x.reshape(n, height // STRIDE, STRIDE, width // STRIDE, STRIDE, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, height // STRIDE, width // STRIDE, 3 * STRIDE**2)
    x = jax.nn.relu(_layer(x, params["stem"], style, octave))
    blocks = params["blocks"]
    for index in range(blocks["first"]["kernel"].shape[0]):
        first = {name: value[index] for name, value in blocks["first"].items()}
        second = {name: value[index] for name, value in blocks["second"].items()}
        inner = jax.nn.relu(_layer(x, first, style, octave))
        x = x + _layer(inner, second, style, octave)
    x = jax.nn.relu(_layer(_double(x), params["up1"], style, octave))
    x = jax.nn.relu(_layer(_double(x), params["up2"], style, octave))
    x = _convolve(x, params["out"]["kernel"]).astype(jnp.float32)
    return jax.nn.sigmoid(x + params["out"]["bias"][style][None, None, None])


def save_styler(path: str | Path, params: StylerParams, config: StylerConfig) -> str:
    """Writes the weights as float16 safetensors, atomically; returns their hash."""
    return save_weights(path, params, config, dtype="float16")


def load_styler(path: str | Path) -> StylerParams:
    """Reads what `save_styler` wrote, as float32 numpy arrays.

    Raises MirageError if the file is missing, damaged, foreign, or made for other
    styles than `NEURAL_STYLES`.
    """
    if not Path(path).is_file():
        raise MirageError(
            f"no style network at {path}: train one with experiments/train_styler.py"
        )
    params, config, _ = load_weights(
        path, StylerConfig, lambda config: init_styler(jax.random.key(0), config)
    )
    if config.styles != NEURAL_STYLES:
        raise MirageError(
            f"{path} paints {', '.join(config.styles)}, not {', '.join(NEURAL_STYLES)}:"
            " train it again"
        )
    return params
