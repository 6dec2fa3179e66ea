"""Frame attention by cuDNN, with the slot bias carried in extra channels.

cuDNN's flash attention would read a bias as a tensor of queries x keys. Instead a
one-hot of the query's group is appended to q and, in the same channel, the bias of
the key's slot for that group to k: the dot product then adds exactly that bias, at
the price of 8 channels for up to 8 groups, forward and backward.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.frame_attention.reference import expand_slot_bias

# Stands for -inf, whose product with another frame's 0 is no number, and exp(-1e4) is
# zero. float16 holds less of it than that, still far more than is needed.
MASKED = -1e4
CHANNEL_MULTIPLE = 8  # cuDNN's head widths are multiples of 8


def attend(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"],
    v: Float[Array, "B M K E"],
    slot_bias: Float[Array, "B G K S"],
    *,
    prompt_tokens: int,
) -> Float[Array, "B Q K E"]:
    """See `api.frame_attention`.

    Raises:
      NotImplementedError: the operands are not half precision, the head is too wide
        for cuDNN, or there is no NVIDIA GPU.
    """
    batch, queries, heads, width = q.shape
    groups = slot_bias.shape[1]
    extra = -(-groups // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"cuDNN attention needs half precision, {q.dtype=}")
    if jax.default_backend() != "gpu":
        raise NotImplementedError("cuDNN attention needs an NVIDIA GPU")
    if width + extra > 256 or width % CHANNEL_MULTIPLE:
        raise NotImplementedError(f"cuDNN attention cannot take {width=} and {extra=}")
    scale = width**-0.5
    group = jnp.repeat(jnp.arange(groups), queries // groups)
    one_hot = jax.nn.one_hot(group, extra, dtype=q.dtype)  # [Q, extra]
    one_hot = jnp.broadcast_to(one_hot[None, :, None], (batch, queries, heads, extra))
    least = max(MASKED, scale * float(jnp.finfo(k.dtype).min))
    bias = jnp.maximum(slot_bias.astype(jnp.float32), least) / scale
    bias = expand_slot_bias(bias, k.shape[1], prompt_tokens)  # [B, G, K, M]
    bias = bias.transpose(0, 3, 2, 1).astype(k.dtype)  # [B, M, K, G]
    pad = [(0, 0)] * 3
    bias = jnp.pad(bias, [*pad, (0, extra - groups)])
    out = jax.nn.dot_product_attention(
        jnp.concatenate([q, one_hot], axis=-1),
        jnp.concatenate([k, bias], axis=-1),
        jnp.pad(v, [*pad, (0, extra)]),
        scale=scale,
        implementation="cudnn",
    )
    return out[..., :width]
