"""The definition of the 8-bit dense layer, float32; and XLA's own 8-bit product."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from pallas_kernels.eight_bit import Quantised
from pallas_kernels.linear.epilogue import finish


def linear_8bit(
    x: Quantised,
    weight: Num[Array, "D K"],
    weight_scale: Float[Array, " D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
    *,
    activation: str | None,
    dtype: jnp.dtype,
) -> Float[Array, "B G N D"]:
    """See `api.linear_8bit`: everything widened to float32 first."""
    wide = x.values.astype(jnp.float32) * x.scale[..., None]
    kernel = weight.astype(jnp.float32) * weight_scale[:, None]
    highest = jax.lax.Precision.HIGHEST
    y = jnp.einsum("bgnk,dk->bgnd", wide, kernel, precision=highest)
    return finish(y, bias, activation, residual, gate).astype(dtype)


def linear_xla(
    x: Quantised,
    weight: Num[Array, "D K"],
    weight_scale: Float[Array, " D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
    *,
    activation: str | None,
    dtype: jnp.dtype,
) -> Float[Array, "B G N D"]:
    """The same with the product left to XLA in 8 bits."""
    whole = jnp.int32 if weight.dtype == jnp.int8 else jnp.float32
    y = jax.lax.dot_general(
        x.values, weight, (((3,), (1,)), ((), ())), preferred_element_type=whole
    )
    y = y.astype(jnp.float32) * x.scale[..., None] * weight_scale[None, None, None]
    return finish(y, bias, activation, residual, gate).astype(dtype)
