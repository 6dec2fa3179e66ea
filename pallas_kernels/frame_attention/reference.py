"""The definition of frame attention: float32, slow, obviously right."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def expand_slot_bias(
    slot_bias: Float[Array, "B G K S"], keys: int, prompt_tokens: int
) -> Float[Array, "B G K M"]:
    """Repeats each slot's bias over its keys: P for slot 0, M-P shared equally."""
    slots = slot_bias.shape[-1]
    frame_tokens = (keys - prompt_tokens) // (slots - 1)
    prompt = jnp.repeat(slot_bias[..., :1], prompt_tokens, axis=-1)
    frames = jnp.repeat(slot_bias[..., 1:], frame_tokens, axis=-1)
    return jnp.concatenate([prompt, frames], axis=-1)


def attend(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"],
    v: Float[Array, "B M K E"],
    slot_bias: Float[Array, "B G K S"],
    *,
    prompt_tokens: int,
) -> Float[Array, "B Q K E"]:
    """See `api.frame_attention`."""
    batch, queries, heads, width = q.shape
    groups = slot_bias.shape[1]
    q32 = q.astype(jnp.float32).reshape(batch, groups, -1, heads, width)
    logits = jnp.einsum(
        "bgnke,bmke->bgknm",
        q32,
        k.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    logits = logits * width**-0.5
    bias = expand_slot_bias(slot_bias.astype(jnp.float32), k.shape[1], prompt_tokens)
    weights = jax.nn.softmax(logits + bias[:, :, :, None, :], axis=-1)
    out = jnp.einsum(
        "bgknm,bmke->bgnke",
        weights,
        v.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return out.reshape(batch, queries, heads, width).astype(q.dtype)
