"""This project's own step: as the library chooses, and as XLA and cuDNN make it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pass_programs import stream_of
from experiments.peers.clock import time_calls
from experiments.peers.rivals import Found, Settings
from experiments.random_model import random_params
from mirage_jax.config import TEXT_WIDTH, ModelConfig, model_config
from mirage_jax.device_weights import held_weights
from mirage_jax.stream import Params, make_step, open_stream
from mirage_jax.stream_config import StreamConfig

COMBINATIONS = {"jax_xla_cudnn": "xla", "mirage_jax": "kernels"}
# Of one frame; the first is what all rivals are asked for. More take XLA a minute more
# to compile, and it is the library that is to be compared.
STEPS = {"jax_xla_cudnn": (1,), "mirage_jax": (1, 2)}


def measure(name: str, settings: Settings) -> Found:
    """Times frames from bytes to bytes, on random weights in bfloat16."""
    begin = time.perf_counter()
    model = model_config(settings.model)
    stream = stream_of(COMBINATIONS[name], settings.side, settings.on_gpu)
    # Of the generator that compiles in the shortest time.
    key = jax.random.key(0, impl="unsafe_rbg")
    params = held_weights(random_params(key, model, stream.dtype), stream)
    times, seconds = {}, 0.0
    for steps in STEPS[name]:
        call = _endless(params, model, dataclasses.replace(stream, steps=steps))
        jax.block_until_ready(call())
        seconds = seconds or time.perf_counter() - begin
        which = name if steps == 1 else f"{name}_{steps}_steps"
        times[which] = time_calls(call, jax.block_until_ready, settings.frames)
    setup = {"jax": jax.__version__, "stream": str(stream)}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Found(times, parameters, seconds, setup)


def _endless(
    params: Params, model: ModelConfig, stream: StreamConfig
) -> Callable[[], Any]:
    """A call makes the next frame of a fresh stream; its source is the frame before."""
    prompt = jnp.full((1, TEXT_WIDTH), TEXT_WIDTH**-0.5)
    opened = jax.jit(open_stream, static_argnums=(1, 2))
    state: Any = opened(params, model, stream, prompt, jax.random.key(0))
    shape = (1, stream.height, stream.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture: Any = jax.device_put(pixels)
    step: Any = make_step(model, stream)

    def call() -> Any:
        nonlocal state, picture
        state, picture = step(params, state, picture)
        return picture

    return call
