"""The 8-bit dense layer by Pallas-Mosaic, for Hopper cards. It has no gradient.

The kernel is that of the 16-bit layers, `pallas_kernels.linear.kernel`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from pallas_kernels import choice, device
from pallas_kernels.eight_bit import Quantised
from pallas_kernels.linear.config import Config
from pallas_kernels.linear.epilogue import operands_of
from pallas_kernels.linear.hopper import dense
from pallas_kernels.linear.problem import problem_of
from pallas_kernels.linear_8bit.choice import OP


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
      config: how to cut the work; None takes the measured one, or a safe default.
      interpret: run on any device, slowly, for tests; without a split.

    Raises:
      ValueError: the configuration does not fit the sizes.
      NotImplementedError: no Hopper card, an older JAX, or sizes that no tile divides.
    """
    lead, (outputs, inputs) = x.values.shape[:3], weight.shape
    p = problem_of(
        x.values, outputs, bias, residual, gate, activation=activation, dtype=dtype
    )
    if config is None and not interpret and (card := device.present()) is not None:
        config = choice.tuned_config(OP, p, card, "mosaic")
    operands = [
        x.values.reshape(p.rows, inputs),
        weight,
        x.scale.reshape(p.rows),
        weight_scale,
    ]
    operands += operands_of(bias, residual, gate)
    found = dense(p, *operands, config=config, interpret=interpret)
    return found.reshape(*lead, outputs)
