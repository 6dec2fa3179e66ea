"""The definition of the dense layer, float32; and what XLA makes of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.linear.epilogue import finish


def linear(
    x: Float[Array, "B G N K"],
    kernel: Float[Array, "K D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
    *,
    activation: str | None,
) -> Float[Array, "B G N D"]:
    """See `api.linear`: everything widened to float32 first."""
    wide, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    y = jnp.einsum("bgnk,kd->bgnd", wide, kernel, precision=jax.lax.Precision.HIGHEST)
    return finish(y, bias, activation, residual, gate).astype(x.dtype)


def linear_xla(
    x: Float[Array, "B G N K"],
    kernel: Float[Array, "K D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
    *,
    activation: str | None,
) -> Float[Array, "B G N D"]:
    """The same as Flax does it: the product is rounded to the dtype of x at once.

    For its gradient what follows the product is computed again: kept in float32 it
    would be most of what a layer keeps.
    """

    @jax.checkpoint
    def end(product: Array, *rest: Array | None) -> Array:
        bias, residual, gate = rest
        wide = product.astype(jnp.float32)
        return finish(wide, bias, activation, residual, gate).astype(product.dtype)

    return end(x @ kernel, bias, residual, gate)
