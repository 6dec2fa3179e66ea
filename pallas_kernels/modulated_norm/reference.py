"""The definition of the modulated norms: float32, and what XLA fuses by itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.eight_bit import Quantised, quantise_rows

EPSILON = 1e-6


def modulated_norm(
    x: Float[Array, "B G N D"],
    scale: Float[Array, "B G D"],
    shift: Float[Array, "B G D"],
    *,
    to: str | None = None,
) -> Float[Array, "B G N D"] | Quantised:
    """See `api.modulated_norm`."""
    y = _normed(x, scale, shift)
    return y.astype(x.dtype) if to is None else quantise_rows(y, to)


def gated_residual_norm(
    x: Float[Array, "B G N D"],
    branch: Float[Array, "B G N D"],
    gate: Float[Array, "*L B G D"],
    scale: Float[Array, "*L B G D"],
    shift: Float[Array, "*L B G D"],
    layer: Int[Array, ""] | int | None = None,
    *,
    to: str | None = None,
) -> tuple[Float[Array, "B G N D"], Float[Array, "B G N D"] | Quantised]:
    """See `api.gated_residual_norm`."""
    if layer is not None:
        gate, scale, shift = (
            jax.lax.dynamic_index_in_dim(vector, layer, 0, keepdims=False)
            for vector in (gate, scale, shift)
        )
    # Rounded before the norm, so that the norm is that of what the next layer reads.
    total = _added(x, branch, gate)
    return total, modulated_norm(total, scale, shift, to=to)


# For their gradients both are computed again: what they have in float32 would be as
# large as all else that a layer keeps.


@jax.checkpoint
def _added(x: Array, branch: Array, gate: Array) -> Array:
    wide = branch.astype(jnp.float32) * gate.astype(jnp.float32)[:, :, None]
    return (x.astype(jnp.float32) + wide).astype(x.dtype)


@jax.checkpoint
def _normed(x: Array, scale: Array, shift: Array) -> Array:
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    y = wide * jax.lax.rsqrt(mean_square + EPSILON)
    y = y * (1 + scale.astype(jnp.float32))[:, :, None]
    return y + shift.astype(jnp.float32)[:, :, None]
