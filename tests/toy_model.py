"""The test model with lively weights, and toy streams of it.

A fresh denoiser predicts zeros and gates everything shut, so that any property would
hold: the weights here are shaken. Programs are compiled once for all tests of a file.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.codec import init_codec
from mirage_jax.config import MODELS
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import device_weights
from mirage_jax.stream import StreamState, make_step, open_stream
from mirage_jax.stream_config import StreamConfig
from mirage_jax.weights import save_weights

MODEL = MODELS["test"]
RING = MODEL.denoiser.ring
REACH = RING * MODEL.denoiser.layers  # frames that a frame's influence lasts
SIDE = 64
CELLS = (SIDE // 16, SIDE // 16, MODEL.codec.channels)
TOKENS = (SIDE // 32) ** 2


def lively(shapes: Any, seed: int = 0) -> dict[str, Any]:
    """Random weights of the given shapes, each kernel by its inputs; no compiling."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.normal(size=leaf.shape)
        if name == "kernel":
            stacked = leaf.ndim == 3  # by layer
            values /= np.prod(leaf.shape[stacked:-1]) ** 0.5
        elif name in ("q_scale", "k_scale", "spread"):
            values = 1 + 0.2 * values
        else:
            values *= 0.3
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def params() -> dict[str, Any]:
    key = jax.random.key(0)
    return {
        "codec": lively(jax.eval_shape(lambda: init_codec(key, MODEL.codec)), 1),
        "denoiser": lively(jax.eval_shape(lambda: init_denoiser(key, MODEL)), 2),
    }


def save_model(folder: Path) -> None:
    """Writes `params()` as the folder of a model, which scripts take."""
    for name, tree in params().items():
        save_weights(folder / f"{name}.safetensors", tree, getattr(MODEL, name))


@functools.cache
def weights(stream: StreamConfig) -> dict[str, Any]:
    """What a stream gets: `params()`, or those in 8 bits."""
    return device_weights(params(), stream) if stream.eight_bit else params()


def settings(**changes: Any) -> StreamConfig:
    """Small frames; layers rolled up, because compiling is what takes time here."""
    small: dict[str, Any] = {"dtype": "float32", "unroll": False}
    return StreamConfig(SIDE, SIDE, **small | changes)


@functools.cache
def step_of(stream: StreamConfig) -> Any:
    """The compiled step: (params, state, source, arrived) -> (state, styled)."""
    return step_with(weights(stream), stream)


def step_with(held: Any, stream: StreamConfig) -> Any:
    """The same for weights in any form."""
    source = np.zeros((stream.batch, SIDE, SIDE, 3), np.uint8)
    arrived = np.ones(stream.batch, bool)
    step: Any = make_step(MODEL, stream)
    lowered = step.lower(held, start(stream), source, arrived)
    return lowered.compile()


_open = jax.jit(open_stream, static_argnums=(1, 2))


def prompts(count: int, seed: int = 0) -> jax.Array:
    vectors = np.random.default_rng(seed).normal(size=(count, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return jnp.asarray(vectors, jnp.float32)


def start(stream: StreamConfig, seed: int = 0) -> StreamState:
    return open_with(params(), stream, seed)


def open_with(params: Any, stream: StreamConfig, seed: int = 0) -> StreamState:
    """A fresh state for weights in any form."""
    words = prompts(stream.batch)
    return _open(params, MODEL, stream, words, jax.random.key(seed))


def of_stream(state: StreamState, number: int) -> StreamState:
    """One stream of a batch, to go on alone."""
    only = slice(number, number + 1)
    cache = dataclasses.replace(
        state.cache,
        k=state.cache.k[:, only],
        v=state.cache.v[:, only],
        age=state.cache.age[only],
        cursor=state.cache.cursor + 0,  # a buffer of its own: it will be donated
    )
    rest = {
        field.name: jax.tree.map(lambda x: x[only], getattr(state, field.name))
        for field in dataclasses.fields(state)
        if field.name != "cache"
    }
    return StreamState(cache=cache, **rest)


def frames(count: int, batch: int = 1, seed: int = 0) -> np.ndarray:
    """Source frames, uint8 [T, B, H, W, 3]."""
    shape = (count, batch, SIDE, SIDE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def play(
    stream: StreamConfig,
    clip: np.ndarray,
    state: StreamState | None = None,
    arrived: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, StreamState]:
    """Pictures [T, B, H, W, 3], latents [T, B, h, w, C] and the state after a clip.

    Latents say more than pictures, where rounding hides small influences.
    """
    if state is None:
        state = start(stream)
    if arrived is None:
        arrived = np.ones(clip.shape[:2], bool)
    pictures, latents = [], []
    for source, came in zip(clip, arrived, strict=True):
        state, picture = step_of(stream)(weights(stream), state, source, came)
        pictures.append(np.asarray(picture))
        latents.append(np.asarray(state.styled))
    return np.stack(pictures), np.stack(latents), state
