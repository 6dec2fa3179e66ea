"""How the program of a frame is compiled: what XLA is asked for, layers in a loop."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.config import ModelConfig
from mirage_jax.dense import Dense, backend_of
from mirage_jax.stream_config import StreamConfig

# Commands that become one CUDA graph: XLA's own choice, and convolutions. The codec has
# dozens, and started one by one each of them costs the host time.
GRAPH_OPTION = "xla_gpu_enable_command_buffer"
GRAPH_COMMANDS = (
    "FUSION",
    "CUBLAS",
    "CUBLASLT",
    "CUSTOM_CALL",
    "CUDNN",
    "DYNAMIC_SLICE_FUSION",
    "CONVOLUTION",
)
# A loop joins the graph too, turn after turn: nothing is decided on the way. That holds
# for every loop of a program, so a program with a long one must not ask for it.
UNROLL_OPTION = "xla_gpu_command_buffer_unroll_loops"


def frame_options(loop: bool = False) -> dict[str, str] | None:
    """Options of `jax.jit` for JAX's default device; XLA_FLAGS have the last word.

    What is compiled with them may hold convolutions: see `load_convolutions`.

    Args:
      loop: layers are a loop, and the program has no longer one.
    """
    if jax.default_backend() != "gpu" or GRAPH_OPTION in os.environ.get(
        "XLA_FLAGS", ""
    ):
        return None
    if not loop:
        return {GRAPH_OPTION: ",".join(GRAPH_COMMANDS)}
    return {GRAPH_OPTION: ",".join((*GRAPH_COMMANDS, "WHILE")), UNROLL_OPTION: "True"}


def settled(model: ModelConfig, stream: StreamConfig) -> StreamConfig:
    """The stream with `unroll` chosen, where that is None.

    A loop where Mosaic runs the blocks' dense layers, as in big models on a Hopper
    card: the host prepares each call of a Mosaic kernel that a program has, frame by
    frame, and a loop has those of one layer. Where XLA runs them it plans better for
    layers one by one, and without a graph of our own there is no loop in it.
    """
    if stream.unroll is not None:
        return stream
    loop = frame_options() is not None and _dense_backend(model, stream) == "mosaic"
    return dataclasses.replace(stream, unroll=not loop)


def _dense_backend(model: ModelConfig, stream: StreamConfig) -> str | None:
    """What runs the MLP's second layer in the first pass, which stands for them all."""
    c = model.denoiser
    layer = Dense(
        c.width,
        jnp.dtype(stream.dtype),
        eight_bit=stream.eight_bit,
        backend=stream.linear,
    )
    frames = 2 if stream.commit == "lagged" else 1
    tokens = c.frame_tokens(stream.grid)
    return backend_of(layer, (stream.batch, frames, tokens, 4 * c.width))


@functools.cache
def load_convolutions() -> None:
    """Has cuDNN load what it needs before a convolution of a graph is the first one.

    It cannot load while XLA records a graph, and a program out of JAX's cache begins
    with that: its first call failed with CUDNN_STATUS_EXECUTION_FAILED. To be called by
    whoever makes programs with a codec in them. Without a GPU it does nothing.
    """
    if jax.default_backend() != "gpu":
        return
    picture = jnp.ones((1, 64, 64, 32), jnp.bfloat16)
    filters = jnp.ones((32, 3, 3, 32), jnp.bfloat16)
    order = ("NHWC", "OHWI", "NHWC")
    found = jax.lax.conv_general_dilated(
        picture, filters, (1, 1), "SAME", dimension_numbers=order
    )
    jax.block_until_ready(found)


def frame_program(
    call: Callable[..., Any],
    model: ModelConfig,
    stream: StreamConfig,
    donate: int | tuple[int, ...],
) -> Any:
    """`jax.jit` of call(..., model=model, stream=stream), which computes one frame.

    Args:
      call: a stage of the step, or something like it.
      model: sizes.
      stream: how it runs; it is `settled` here.
      donate: numbers of the operands that are given up.
    """
    stream = settled(model, stream)
    load_convolutions()
    return jax.jit(
        functools.partial(call, model=model, stream=stream),
        donate_argnums=donate,
        keep_unused=True,  # also what is only written needs its place
        compiler_options=frame_options(loop=not stream.unrolled),
    )
