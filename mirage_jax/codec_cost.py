"""What the codec must do at least for a frame, counted from its own modules."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mirage_jax.codec import Decoder, Encoder, init_codec
from mirage_jax.config import ModelConfig
from mirage_jax.convolution import Conv
from mirage_jax.cost_model import Stage, convolution_flops
from mirage_jax.device_weights import narrowed
from mirage_jax.stream_config import StreamConfig


@functools.cache  # tables ask for the same few again and again
def codec_stages(model: ModelConfig, stream: StreamConfig) -> tuple[Stage, Stage]:
    """Encoding and decoding a frame of every stream, always in the compute type.

    A frame enters as bytes and leaves as bytes. The latents of the source and of the
    styled frame are written into the stream's state.
    """
    c, dtype = model.codec, jnp.dtype(stream.dtype)
    pixels = (stream.batch, stream.height, stream.width, 3)
    latents = (stream.batch, *stream.grid, c.channels)
    weights = jax.eval_shape(lambda: narrowed(init_codec(jax.random.key(0), c), dtype))
    statistics = _bytes(weights["statistics"])

    def stage(name: str, module: Any, shape: tuple[int, ...]) -> Stage:
        flops, handed_on = 0, []
        for kernel, result in _convolutions(module, shape):
            batch, *grid, outputs = result
            flops += batch * convolution_flops(kernel, (grid[0], grid[1]))
            handed_on.append(batch * math.prod(grid) * outputs * dtype.itemsize)
        part = weights[f"{name}r"]  # "encoder" or "decoder"
        return Stage(
            name,
            stream.dtype,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(part)),
            weight_bytes=_bytes(part) + statistics,
            frame_bytes=math.prod(pixels) + 4 * math.prod(latents),
            handed_on=tuple(handed_on),
            flops=flops,
        )

    return (
        stage("encode", Encoder(c, dtype), pixels),
        stage("decode", Decoder(c, dtype), latents),
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _convolutions(
    module: nn.Module, shape: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(kernel, result), by shape, of each convolution that the module really calls."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        if isinstance(context.module, Conv) and context.method_name == "__call__":
            kernel = (*context.module.kernel_size, args[0].shape[-1], result.shape[-1])
            found.append((kernel, result.shape))
        return result

    with nn.intercept_methods(note):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    return found
