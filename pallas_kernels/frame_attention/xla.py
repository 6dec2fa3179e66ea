"""Frame attention as plain matrix products that XLA fuses as it can."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.frame_attention.reference import expand_slot_bias


def attend(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"],
    v: Float[Array, "B M K E"],
    slot_bias: Float[Array, "B G K S"],
    *,
    prompt_tokens: int,
) -> Float[Array, "B Q K E"]:
    """See `api.frame_attention`; operands keep their dtype, the softmax is float32."""
    batch, queries, heads, width = q.shape
    groups = slot_bias.shape[1]
    grouped = q.reshape(batch, groups, -1, heads, width)
    logits = jnp.einsum(
        "bgnke,bmke->bgknm", grouped, k, preferred_element_type=jnp.float32
    )
    logits = logits * width**-0.5
    bias = expand_slot_bias(slot_bias.astype(jnp.float32), k.shape[1], prompt_tokens)
    weights = jax.nn.softmax(logits + bias[:, :, :, None, :], axis=-1)
    out = jnp.einsum("bgknm,bmke->bgnke", weights.astype(v.dtype), v)
    return out.reshape(batch, queries, heads, width).astype(q.dtype)
