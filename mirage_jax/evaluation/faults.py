"""Faults that a running stream must get over."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from mirage_jax.config import DenoiserConfig
from mirage_jax.stream import StreamState

HEAL = 30  # frames: about a second

Source = UInt8[Array, "B H W 3"]
Disturbed = tuple[StreamState, Source]


def _remembered_noise(
    state: StreamState, source: Source, key: Array, config: DenoiserConfig
) -> Disturbed:
    """Noise as strong as what the slots of frames hold, on top of it."""
    first, cache = config.prompt_tokens, state.cache

    def noisy(x: Array, key: Array) -> Array:
        frames = x[:, :, first:]
        wide = frames.astype(jnp.float32)
        level = jnp.sqrt(jnp.mean(jnp.square(wide), axis=(2, 4), keepdims=True))
        wide = wide + level * jax.random.normal(key, wide.shape)
        return x.at[:, :, first:].set(wide.astype(x.dtype))

    one, other = jax.random.split(key)
    cache = dataclasses.replace(cache, k=noisy(cache.k, one), v=noisy(cache.v, other))
    return dataclasses.replace(state, cache=cache), source


def _noisy_picture(
    state: StreamState, source: Source, key: Array, config: DenoiserConfig
) -> Disturbed:
    """The last styled latent drowns in noise; only a lagged commit looks back at it."""
    del config
    noise = jax.random.normal(key, state.styled.shape)
    return dataclasses.replace(state, styled=state.styled + noise), source


def _black(
    state: StreamState, source: Source, key: Array, config: DenoiserConfig
) -> Disturbed:
    del key, config
    return state, jnp.zeros_like(source)


def _saturated(
    state: StreamState, source: Source, key: Array, config: DenoiserConfig
) -> Disturbed:
    """Four times the exposure."""
    del key, config
    return state, jnp.minimum(source, 63) * jnp.uint8(4)


def _cut(
    state: StreamState, source: Source, key: Array, config: DenoiserConfig
) -> Disturbed:
    """One frame of another scene: this one upside down and negative."""
    del key, config
    return state, 255 - source[:, ::-1]


Fault = Callable[[StreamState, Source, Array, DenoiserConfig], Disturbed]
# Each takes the state before a frame and the frame's source.
FAULTS: MappingProxyType[str, Fault] = MappingProxyType(
    {
        "remembered_noise": _remembered_noise,
        "noisy_picture": _noisy_picture,
        "black": _black,
        "saturated": _saturated,
        "cut": _cut,
    }
)
