"""The definition of the commit, and what XLA makes of it by itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPSILON = 1e-6


def _unit(
    x: Float[Array, "B Q K E"], scale: Float[Array, " E"]
) -> Float[Array, "B Q K E"]:
    """RMS norm of each head with a learnt scale, float32."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    unit = wide * jax.lax.rsqrt(mean_square + EPSILON)
    return unit * scale.astype(jnp.float32)[None, None, None]


def _rotate(
    x: Float[Array, "B Q K E"],
    cos: Float[Array, "Q E/2"],
    sin: Float[Array, "Q E/2"],
) -> Float[Array, "B Q K E"]:
    """Rotary embedding; pairs are a channel of the first half and one of the second."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1)


# Computed again for its gradient: in float32 it would be twice what it is made of.
@jax.checkpoint
def _placed(x: Array, scale: Array, cos: Array, sin: Array) -> Array:
    return _rotate(_unit(x, scale), cos, sin)


def qk_norm_rope_commit(
    qkv: Float[Array, "B Q 3 K E"],
    q_scale: Float[Array, "L E"],
    k_scale: Float[Array, "L E"],
    cos: Float[Array, "Q E/2"],
    sin: Float[Array, "Q E/2"],
    k_slots: Float[Array, "L B M K E"],
    v_slots: Float[Array, "L B M K E"],
    layer: Int[Array, ""],
    starts: Int[Array, " G"],
) -> tuple[
    Float[Array, "B Q K E"], Float[Array, "L B M K E"], Float[Array, "L B M K E"]
]:
    """See `api.qk_norm_rope_commit`."""
    dtype = qkv.dtype
    q_scale, k_scale = q_scale[layer], k_scale[layer]
    q = _placed(qkv[:, :, 0], q_scale, cos, sin).astype(dtype)
    k = _placed(qkv[:, :, 1], k_scale, cos, sin).astype(k_slots.dtype)
    v = qkv[:, :, 2].astype(v_slots.dtype)
    tokens = qkv.shape[1] // starts.shape[0]
    for group in range(starts.shape[0]):
        frame = slice(group * tokens, (group + 1) * tokens)
        at = (layer, 0, starts[group], 0, 0)
        k_slots = jax.lax.dynamic_update_slice(k_slots, k[None, :, frame], at)
        v_slots = jax.lax.dynamic_update_slice(v_slots, v[None, :, frame], at)
    return q, k_slots, v_slots
