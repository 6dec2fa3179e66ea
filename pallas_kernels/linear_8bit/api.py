"""The dispatcher of the 8-bit dense layer."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from pallas_kernels.eight_bit import Quantised, check_format, quantise_rows
from pallas_kernels.linear.epilogue import check
from pallas_kernels.linear.problem import problem_of
from pallas_kernels.linear_8bit import mosaic, reference, triton
from pallas_kernels.linear_8bit.choice import OP
from pallas_kernels.trial import Trials

_BACKENDS: dict[str, Callable[..., Array]] = {
    "reference": reference.linear_8bit,
    "xla": reference.linear_xla,
    "triton": triton.linear_8bit,
    "mosaic": mosaic.linear_8bit,
}
TRIALS = Trials(OP, "a dense layer in 8 bits")


class Weight8(NamedTuple):
    """A dense layer's kernel in 8 bits, ready for the matrix units.

    Attributes:
      values: [D, K], outputs first: int8 or float8_e4m3fn.
      scale: float32 [D]; values * scale[:, None] is the kernel, transposed.
    """

    values: Num[Array, "D K"]
    scale: Float[Array, " D"]


def quantise_weight(kernel: Float[Array, "K D"], to: str) -> Weight8:
    """A float kernel [inputs, outputs] to 8 bits with a scale per output.

    Raises:
      ValueError: `to` is neither "int8" nor "float8_e4m3fn".
    """
    check_format(to)
    return Weight8(*quantise_rows(kernel.astype(jnp.float32).T, to))


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return TRIALS.last


def linear_8bit(
    x: Quantised,
    weight: Weight8,
    bias: Float[Array, " D"] | None = None,
    *,
    activation: str | None = None,
    residual: Float[Array, "B G N D"] | None = None,
    gate: Float[Array, "B G D"] | None = None,
    dtype: Any = jnp.bfloat16,
    backend: str | None = None,
) -> Float[Array, "B G N D"]:
    """residual + gate * activation(x @ kernel + bias), the product in 8 bits.

    Args:
      x: [B, G, N, K] with a scale per token, as `modulated_norm` gives it.
      weight: of the same format, from `quantise_weight`.
      bias: added to the product.
      activation: None or "gelu" (the tanh form).
      residual: added last, in float32.
      gate: of each frame, on what is added to the residual.
      dtype: of the result.
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `pallas_kernels.choice`), without a measurement XLA.

    Raises:
      ValueError: shapes or formats do not fit, or an unknown activation or backend.
      NotImplementedError: the backend cannot do this here.
    """
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    shape, outputs = x.values.shape, weight.values.shape[0]
    if len(shape) != 4 or x.scale.shape != shape[:3]:
        raise ValueError(f"{shape=} and {x.scale.shape=} must be [B, G, N, K]")
    if weight.values.shape[1:] != shape[3:] or weight.scale.shape != (outputs,):
        raise ValueError(f"{weight.values.shape=} does not fit {shape=}")
    if x.values.dtype != weight.values.dtype:
        raise ValueError(f"{x.values.dtype=} is not {weight.values.dtype=}")
    check_format(jnp.dtype(weight.values.dtype).name)
    check(shape, outputs, activation, bias, residual, gate)
    dtype = jnp.dtype(dtype)

    def run(name: str) -> Callable[..., Array]:
        return functools.partial(_BACKENDS[name], activation=activation, dtype=dtype)

    operands = (x, weight.values, weight.scale, bias, residual, gate)
    problem = problem_of(
        x.values, outputs, bias, residual, gate, activation=activation, dtype=dtype
    )
    return run(TRIALS.pick(backend, problem, run, *operands))(*operands)
