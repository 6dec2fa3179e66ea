"""The 8-bit dense layer by Pallas-Mosaic, for Hopper cards. It has no gradient.

The kernel is that of the 16-bit layers, `pallas_kernels.linear.kernel`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from pallas_kernels.eight_bit import Quantised
from pallas_kernels.linear.config import Config
from pallas_kernels.linear.hopper import dense
from pallas_kernels.linear.problem import Problem


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
    config: Config | None = None,
    interpret: bool = False,
) -> Float[Array, "B G N D"]:
    """See `api.linear_8bit`.

    Args:
      config: how to cut the work; None takes a safe default.
      interpret: run on any device, slowly, for tests; without a split.

    Raises:
      ValueError: the configuration does not fit the sizes.
      NotImplementedError: no Hopper card, an older JAX, or sizes that no tile divides.
    """
    lead, (outputs, inputs) = x.values.shape[:3], weight.shape
    p = Problem(
        frames=lead[0] * lead[1],
        tokens=lead[2],
        inputs=inputs,
        outputs=outputs,
        format=jnp.dtype(weight.dtype).name,
        activation=activation,
        biased=bias is not None,
        gated=gate is not None,
        residual=residual is not None,
        dtype=jnp.dtype(dtype).name,
    )
    operands = [
        x.values.reshape(p.rows, inputs),
        weight,
        x.scale.reshape(p.rows),
        weight_scale,
    ]
    if bias is not None:
        operands.append(bias)
    if residual is not None:
        operands.append(residual.reshape(p.rows, outputs))
    if gate is not None:
        operands.append(gate.reshape(p.frames, outputs))
    found = dense(p, *operands, config=config, interpret=interpret)
    return found.reshape(*lead, outputs)
