"""The dispatcher of the quantisation of rows."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.eight_bit import LARGEST, Quantised, quantise_rows
from pallas_kernels.quantise import triton


def _xla(x: Float[Array, "*rows D"], to: str) -> Quantised:
    return quantise_rows(x.astype(jnp.float32), to)


# The definition is what XLA fuses.
_BACKENDS: dict[str, Callable[[Array, str], Quantised]] = {
    "xla": _xla,
    "triton": triton.quantise,
}


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def quantise(x: Float[Array, "*rows D"], to: str, *, backend: str = "xla") -> Quantised:
    """Rows in 8 bits with a float32 scale each, the form that `linear_8bit` takes.

    For activations that no norm has just written: behind a GELU. `modulated_norm` gives
    its result in this form by itself.

    Args:
      x: at least one axis of rows.
      to: "int8" or "float8_e4m3fn".
      backend: a name of `backends()`.

    Raises:
      ValueError: an unknown format or backend, or no rows.
      NotImplementedError: the backend cannot do this here.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    if to not in LARGEST:
        raise ValueError(f"{to=} must be one of {tuple(LARGEST)}")
    if x.ndim < 2:
        raise ValueError(f"{x.shape=} must be rows of numbers")
    return _BACKENDS[backend](x, to)
