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

    product = x @ kernel
    if bias is not None:
        product = _with_slope_of(bias, product)
        bias = jax.lax.stop_gradient(bias)
    return end(product, bias, residual, gate)


@jax.custom_vjp
def _with_slope_of(bias: Float[Array, " D"], product: Float[Array, "B G N D"]) -> Array:
    """The product, whose slopes, rounded as they are, add up to the bias's.

    Left to itself XLA writes them in float32 for that sum: twice the bytes of what is
    among the largest that a layer moves.
    """
    del bias
    return product


def _product(bias: Array, product: Array) -> tuple[Array, Array]:
    return product, bias


def _slopes(bias: Array, slope: Array) -> tuple[Array, Array]:
    slope = jax.lax.optimization_barrier(slope)
    total = jnp.sum(slope, axis=(0, 1, 2), dtype=jnp.float32)
    return total.astype(bias.dtype), slope


_with_slope_of.defvjp(_product, _slopes)
