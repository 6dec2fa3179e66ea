"""What follows the product of a dense layer, as XLA computes it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def finish(
    y: Float[Array, "B G N D"],
    bias: Float[Array, " D"] | None,
    activation: str | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
) -> Float[Array, "B G N D"]:
    """Bias, activation and gated residual of a float32 product; float32."""
    if bias is not None:
        y = y + bias.astype(jnp.float32)[None, None, None]
    if activation == "gelu":
        y = jax.nn.gelu(y)
    if gate is not None:
        y = y * gate.astype(jnp.float32)[:, :, None]
    if residual is not None:
        y = y + residual.astype(jnp.float32)
    return y
