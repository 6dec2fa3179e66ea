"""The dispatcher of the dense layer in 16 bits."""

import functools
from collections.abc import Callable

from jaxtyping import Array, Float

from pallas_kernels.linear import mosaic, reference
from pallas_kernels.linear.choice import OP
from pallas_kernels.linear.epilogue import check
from pallas_kernels.linear.problem import problem_of
from pallas_kernels.trial import Trials

_BACKENDS: dict[str, Callable[..., Array]] = {
    "reference": reference.linear,
    "xla": reference.linear_xla,
    "mosaic": mosaic.linear,
}
TRIALS = Trials(OP, "a dense layer")


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return TRIALS.last


def linear(
    x: Float[Array, "B G N K"],
    kernel: Float[Array, "K D"],
    bias: Float[Array, " D"] | None = None,
    *,
    activation: str | None = None,
    residual: Float[Array, "B G N D"] | None = None,
    gate: Float[Array, "B G D"] | None = None,
    backend: str | None = None,
) -> Float[Array, "B G N D"]:
    """residual + gate * activation(x @ kernel + bias), in the dtype of x.

    Args:
      x: activations.
      kernel: as Flax keeps it, inputs first, of x's dtype.
      bias: added to the product.
      activation: None or "gelu" (the tanh form).
      residual: added last, in float32.
      gate: of each frame, on what is added to the residual.
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `pallas_kernels.choice`), without a measurement XLA.

    Raises:
      ValueError: shapes or dtypes do not fit, or an unknown activation or backend.
      NotImplementedError: the backend cannot do this here.
    """
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    if x.ndim != 4:
        raise ValueError(f"{x.shape=} must be [B, G, N, K]")
    if kernel.ndim != 2 or kernel.shape[0] != x.shape[3]:
        raise ValueError(f"{kernel.shape=} does not fit {x.shape=}")
    if kernel.dtype != x.dtype:
        raise ValueError(f"{kernel.dtype=} is not {x.dtype=}")
    outputs = kernel.shape[1]
    check(x.shape, outputs, activation, bias, residual, gate)

    def run(name: str) -> Callable[..., Array]:
        return functools.partial(_BACKENDS[name], activation=activation)

    operands = (x, kernel, bias, residual, gate)
    problem = problem_of(
        x, outputs, bias, residual, gate, activation=activation, dtype=x.dtype
    )
    return run(TRIALS.pick(backend, problem, run, *operands))(*operands)
