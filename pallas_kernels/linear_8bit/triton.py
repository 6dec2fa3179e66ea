"""The 8-bit dense layer by Pallas-Triton. It has no gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Num

from pallas_kernels import choice, device
from pallas_kernels._compat import triton_call
from pallas_kernels.eight_bit import Quantised
from pallas_kernels.linear.problem import problem_of
from pallas_kernels.linear_8bit.choice import OP
from pallas_kernels.linear_8bit.config import Config, default_config
from pallas_kernels.linear_8bit.kernel import linear


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
      interpret: run on any device, slowly, for tests.

    Raises:
      NotImplementedError: no NVIDIA GPU that can: 8.0 for int8, 8.9 for float8.
    """
    lead, (outputs, inputs) = x.values.shape[:3], weight.shape
    p = problem_of(
        x.values, outputs, bias, residual, gate, activation=activation, dtype=dtype
    )
    card = device.INTERPRETER if interpret else device.present()
    least = device.LEAST_CAPABILITY if p.format == "int8" else (8, 9)
    if card is None or card.capability < least:
        raise NotImplementedError(f"{p.format} needs a GPU from {least} on, not {card}")
    if config is None:
        config = choice.tuned_config(OP, p, card, "triton")
    c = config or default_config(p, card.shared_memory, card.cores)
    rows, wide, deep = p.rows + c.block_m, outputs + c.block_n, inputs + c.block_k

    # Programs index by themselves: a block is the whole axis, and as much longer as
    # the last program may reach over its end.
    def spec(*sizes: int) -> pl.BlockSpec:
        return pl.BlockSpec(sizes, lambda i, j: (0,) * len(sizes))

    operands: list[Any] = [
        (x.values.reshape(p.rows, inputs), spec(rows, deep)),
        (x.scale.reshape(p.rows), spec(rows)),
        (weight, spec(wide, deep)),
        (weight_scale, spec(wide)),
    ]
    if bias is not None:
        operands.append((bias, spec(wide)))
    if residual is not None:
        operands.append((residual.reshape(p.rows, outputs), spec(rows, wide)))
    if gate is not None:
        operands.append((gate.reshape(p.frames, outputs), spec(p.frames, wide)))
    found = triton_call(
        functools.partial(linear, problem=p, config=c),
        name="linear_8bit",
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        interpret=interpret,
        grid=(pl.cdiv(p.rows, c.block_m), pl.cdiv(outputs, c.block_n)),
        in_specs=[block for _, block in operands],
        out_shape=jax.ShapeDtypeStruct((p.rows, outputs), dtype),
        out_specs=spec(rows, wide),
    )(*(operand for operand, _ in operands))
    return found.reshape(*lead, outputs)
