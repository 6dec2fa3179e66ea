"""The dense layer in 16 bits by Pallas-Mosaic, for Hopper cards."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import choice, device
from pallas_kernels.linear import reference
from pallas_kernels.linear.choice import OP
from pallas_kernels.linear.config import Config
from pallas_kernels.linear.epilogue import operands_of
from pallas_kernels.linear.hopper import dense
from pallas_kernels.linear.problem import problem_of


def linear(
    x: Float[Array, "B G N K"],
    kernel: Float[Array, "K D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
    *,
    activation: str | None,
    config: Config | None = None,
    interpret: bool = False,
) -> Float[Array, "B G N D"]:
    """See `api.linear`. The gradient is XLA's, of XLA's definition.

    Args:
      config: how to cut the work; None takes the measured one, or a safe default.
      interpret: run on any device, slowly, for tests; without a split.

    Raises:
      ValueError: the configuration does not fit the sizes.
      NotImplementedError: no Hopper card, an older JAX, another dtype, or sizes that
        no tile divides.
    """
    if x.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"{x.dtype=} has no Hopper kernel")
    call = functools.partial(
        _linear, activation=activation, config=config, interpret=interpret
    )
    definition = functools.partial(reference.linear_xla, activation=activation)
    differentiable = jax.custom_vjp(call)
    differentiable.defvjp(
        lambda *operands: (call(*operands), operands),
        lambda operands, cotangent: jax.vjp(definition, *operands)[1](cotangent),
    )
    return differentiable(x, kernel, bias, residual, gate)


def _linear(
    x: Float[Array, "B G N K"],
    kernel: Float[Array, "K D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
    *,
    activation: str | None,
    config: Config | None,
    interpret: bool,
) -> Float[Array, "B G N D"]:
    lead, (inputs, outputs) = x.shape[:3], kernel.shape
    p = problem_of(
        x, outputs, bias, residual, gate, activation=activation, dtype=x.dtype
    )
    if config is None and not interpret and (card := device.present()) is not None:
        config = choice.tuned_config(OP, p, card, "mosaic")
    operands = [x.reshape(p.rows, inputs), kernel]
    operands += operands_of(bias, residual, gate)
    found = dense(p, *operands, config=config, interpret=interpret)
    return found.reshape(*lead, outputs)
