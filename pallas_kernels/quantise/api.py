"""The dispatcher of the quantisation of rows."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.eight_bit import LARGEST, Quantised, quantise_rows
from pallas_kernels.quantise import triton
from pallas_kernels.quantise.problem import OP, problem_of
from pallas_kernels.trial import Trials


def _xla(x: Float[Array, "*rows D"], to: str) -> Quantised:
    return quantise_rows(x.astype(jnp.float32), to)


# The definition is what XLA fuses.
_BACKENDS: dict[str, Callable[..., Quantised]] = {
    "xla": _xla,
    "triton": triton.quantise,
}
TRIALS = Trials(OP, "the quantisation of rows")


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return TRIALS.last


def quantise(
    x: Float[Array, "*rows D"], to: str, *, backend: str | None = None
) -> Quantised:
    """Rows in 8 bits with a float32 scale each, the form that `linear_8bit` takes.

    For activations that no norm has just written: behind a GELU. `modulated_norm` gives
    its result in this form by itself.

    Args:
      x: at least one axis of rows.
      to: "int8" or "float8_e4m3fn".
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `pallas_kernels.choice`), without a measurement XLA.

    Raises:
      ValueError: an unknown format or backend, or no rows.
      NotImplementedError: the backend cannot do this here.
    """
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    if to not in LARGEST:
        raise ValueError(f"{to=} must be one of {tuple(LARGEST)}")
    if x.ndim < 2:
        raise ValueError(f"{x.shape=} must be rows of numbers")

    def run(name: str) -> Callable[..., Quantised]:
        return functools.partial(_BACKENDS[name], to=to)

    return run(TRIALS.pick(backend, problem_of(x, to), run, x))(x)
