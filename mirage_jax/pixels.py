"""Pictures as bytes and as floats in [0, 1]: one way there, one rounding back."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_floats(frames: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Bytes to float32 in [0, 1]."""
    return frames.astype(jnp.float32) / 255


def to_bytes(images: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Floats to the nearest bytes, those outside of [0, 1] to its ends."""
    return jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)
