"""VGG16 features up to conv4_1: what style, codec and pixel losses look through.

Simonyan and Zisserman 2015 (https://arxiv.org/abs/1409.1556). The weights are HED's
fine-tune of the ImageNet network, stored as HWIO kernels in float16; that network
takes BGR in 0..255 with the mean colour taken off.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mirage_jax.errors import MirageError

VggParams = dict[str, dict[str, jax.Array]]
Features = dict[str, Float[Array, "n h w C"]]

MEAN_BGR = (104.007, 116.669, 122.679)
WIDTHS = (64, 128, 256, 512)
# Convolutions in a block; the fourth block stops after its first one.
DEPTHS = (2, 2, 3, 1)
PERCEPTUAL_LAYERS = ("relu1_2", "relu2_2", "relu3_3")
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_1")


def _shapes(widths: Sequence[int]) -> dict[str, tuple[int, int, int, int]]:
    """Kernel shape (HWIO) of every convolution, in the order they run."""
    shapes, inputs = {}, 3
    for block, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
        for layer in range(1, depth + 1):
            shapes[f"conv{block}_{layer}"] = (3, 3, inputs, width)
            inputs = width
    return shapes


def load_vgg(path: str | Path) -> VggParams:
    """Reads the weights as float32 numpy arrays {"conv1_1": {"kernel", "bias"}, ...}.

    Raises MirageError if the file is missing, damaged, or holds other shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise MirageError(
            f"VGG weights {str(path)!r} do not exist: pass the path of "
            "hed_vgg_f16_to_conv4_1.npz"
        ) from None
    except (OSError, EOFError, ValueError, BadZipFile, AttributeError) as error:
        raise MirageError(
            f"VGG weights {str(path)!r} cannot be read ({error}): pass an .npz file"
        ) from None
    params: VggParams = {}
    for name, shape in _shapes(WIDTHS).items():
        block, layer = int(name[4]), int(name[6])
        prefix = f"block{block}/layers/conv2d" + (f"_{layer - 1}" if layer > 1 else "")
        kernel, bias = stored.get(f"{prefix}/vars/0"), stored.get(f"{prefix}/vars/1")
        found = (getattr(kernel, "shape", None), getattr(bias, "shape", None))
        if kernel is None or bias is None or found != (shape, shape[-1:]):
            raise MirageError(
                f"VGG weights {str(path)!r}: {prefix} has shapes {found}, expected "
                f"{(shape, shape[-1:])}: pass hed_vgg_f16_to_conv4_1.npz"
            )
        params[name] = {
            "kernel": kernel.astype(np.float32),  # type: ignore[dict-item]
            "bias": bias.astype(np.float32),  # type: ignore[dict-item]
        }
    return params


def random_vgg(key: Array, widths: Sequence[int] = WIDTHS) -> VggParams:
    """Untrained weights of the same structure; narrow `widths` make tests quick."""
    params: VggParams = {}
    for name, shape in _shapes(widths).items():
        key, kernel_key = jax.random.split(key)
        fan_in = shape[0] * shape[1] * shape[2]
        kernel = jax.random.normal(kernel_key, shape) * (2.0 / fan_in) ** 0.5
        params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[-1:])}
    return params


def features(
    params: Mapping[str, Mapping[str, jax.Array]],
    images: Float[Array, "n H W 3"],
    dtype: DTypeLike = jnp.bfloat16,
) -> Features:
    """relu1_2, relu2_2, relu3_3 and relu4_1 of RGB pictures in [0, 1].

    Strides are 1, 2, 4 and 8; sides must be multiples of 8. Computes in `dtype`;
    under jit, layers the caller does not use cost nothing.
    """
    if images.ndim != 4 or images.shape[1] % 8 or images.shape[2] % 8:
        raise ValueError(f"expected [n, 8a, 8b, 3], got {images.shape=}")
    mean = jnp.asarray(MEAN_BGR, jnp.float32)[None, None, None]
    x = (images[..., ::-1].astype(jnp.float32) * 255.0 - mean).astype(dtype)
    found: Features = {}
    for block, depth in enumerate(DEPTHS, start=1):
        if block > 1:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        for layer in range(1, depth + 1):
            weights = params[f"conv{block}_{layer}"]
            x = jax.lax.conv_general_dilated(
                x,
                weights["kernel"].astype(dtype),
                window_strides=(1, 1),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            bias = weights["bias"].astype(dtype)
            x = jax.nn.relu(x + bias[None, None, None])
        found[f"relu{block}_{depth}"] = x
    return found


def gram(feature: Float[Array, "n h w C"]) -> Float[Array, "n C C"]:
    """Mean outer product of the feature vectors of a picture, in float32."""
    total = jnp.einsum(
        "nhwc,nhwd->ncd", feature, feature, preferred_element_type=jnp.float32
    )
    return total / (feature.shape[1] * feature.shape[2])


def perceptual_loss(
    vgg: Mapping[str, Mapping[str, jax.Array]],
    a: Float[Array, "n H W 3"],
    b: Float[Array, "n H W 3"],
    dtype: DTypeLike = jnp.bfloat16,
) -> Float[Array, ""]:
    """Sum over relu1_2, relu2_2, relu3_3 of mean |f(a) - f(b)| / mean |f(b)|.

    `a` is the output and `b` the target, both in [0, 1]. Dividing by the size of the
    features makes the layers weigh alike (Johnson et al. 2016,
    https://arxiv.org/abs/1603.08155, compare squared features).
    """
    found = features(vgg, a, dtype)
    wanted = features(vgg, jax.lax.stop_gradient(b), dtype)
    loss = jnp.zeros((), jnp.float32)
    for layer in PERCEPTUAL_LAYERS:
        target = wanted[layer].astype(jnp.float32)
        error = jnp.abs(found[layer].astype(jnp.float32) - target).mean()
        loss += error / (jnp.abs(target).mean() + 1e-6)
    return loss
