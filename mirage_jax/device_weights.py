"""How weights lie on the device: matrices in the compute type or in 8 bits.

On disk and in training all weights are float32 (or widen to it). A stream reads every
matrix once a pass, so it should find them in the type in which it multiplies: that
halves or quarters what it reads, and the result is the same as of narrowing them in
every pass. 8 bits are post-training quantisation: a scale per output channel here, a
scale per token of the activations in flight, nothing learnt. They are for most of the
dense layers of the blocks, where nearly all weights are; the projection of attention's
output, stem, conditioning, prompt and head stay in the compute type.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.convolution import filters_first
from mirage_jax.errors import MirageError
from mirage_jax.stream_config import StreamConfig
from mirage_jax.transformer import DENSE, EIGHT_BIT
from pallas_kernels.linear_8bit import quantise_weight

Params = dict[str, Any]
# Read in float32 whatever the compute type: all of them together are small.
FLOAT32 = ("q_scale", "k_scale", "scale", "mean", "spread", "slot_bias")
ALIGNED = 16  # 8-bit matrix units read rows whose bytes are a multiple of this


def device_weights(params: Params, stream: StreamConfig) -> Params:
    """Weights as this stream reads them; to be compiled, or called once at load.

    Args:
      params: {"codec": ..., "denoiser": ...} of any float type.
      stream: says the compute type and the 8-bit format.

    Raises:
      MirageError: 8 bits with a width that their matrix units cannot take.
    """
    denoiser = params["denoiser"]
    if stream.eight_bit is not None:
        denoiser = quantise_blocks(denoiser, stream.eight_bit)
    return narrowed({**params, "denoiser": denoiser}, jnp.dtype(stream.dtype))


def held_weights(params: Params, stream: StreamConfig) -> Params:
    """`device_weights`, on JAX's default device, laid out as that reads them best.

    Raises:
      MirageError: as `device_weights`.
    """
    held = jax.jit(device_weights, static_argnums=1)(params, stream)
    platform = jax.default_backend()
    if platform == "gpu":
        return jax.jit(filters_first)(held)
    if platform == "cpu" and stream.unrolled:
        return jax.jit(layers_apart)(held)
    return held


def layers_apart(params: Params) -> Params:
    """The dense layers of the blocks as tuples, an array for each layer: unrolled.

    XLA copies a layer out of a stack on a CPU before it multiplies, in every pass: with
    few tokens that shows. A GPU's kernels read stacks in place, and each
    buffer costs its host time in every call.
    """
    blocks = dict(params["denoiser"]["blocks"])
    for name in DENSE:
        blocks[name] = jax.tree.map(tuple, blocks[name])
    return {**params, "denoiser": {**params["denoiser"], "blocks": blocks}}


def narrowed(params: Params, dtype: Any) -> Params:
    """Kernels of dense layers and convolutions, biases and tables to `dtype`.

    What a stream reads in float32 stays: scales of norms and of 8-bit weights,
    statistics of latents and the slot bias.
    """

    def narrow(path: Any, leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize > 1
        if not floating or path[-1].key in FLOAT32:
            return leaf
        return leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(narrow, params)


def quantise_blocks(denoiser: Params, to: str) -> Params:
    """The denoiser with dense layers of its blocks in 8 bits: those of `EIGHT_BIT`.

    Kernels [L, K, D] become `values` [L, D, K] in the format and `scale` float32
    [L, D]; biases stay.

    Args:
      denoiser: parameters as `init_denoiser` gives them.
      to: "int8" or "float8_e4m3fn".

    Raises:
      ValueError: an unknown format.
      MirageError: inputs or outputs that are no multiple of 16.
    """
    blocks = dict(denoiser["blocks"])
    for name in EIGHT_BIT:
        rest = dict(blocks[name])
        kernel = rest.pop("kernel")
        if any(size % ALIGNED for size in kernel.shape[1:]):
            raise MirageError(
                f"8 bits need layers of multiples of {ALIGNED}; {name!r} of this model "
                f"is {kernel.shape[1]} x {kernel.shape[2]}: run it without"
            )
        # A layer at a time: a float32 copy of all of them would not be small.
        weight = jax.lax.map(lambda one: quantise_weight(one, to), jnp.asarray(kernel))
        blocks[name] = {**rest, "values": weight.values, "scale": weight.scale}
    return {**denoiser, "blocks": blocks}
