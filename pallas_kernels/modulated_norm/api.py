"""The dispatcher of the modulated norms."""

import functools
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int

from pallas_kernels.eight_bit import Quantised, check_format
from pallas_kernels.modulated_norm import reference, triton
from pallas_kernels.modulated_norm.problem import OP, problem_of
from pallas_kernels.trial import Trials

# The definition is what XLA fuses, so "xla" is the reference itself.
_BACKENDS: dict[str, Any] = {"xla": reference, "triton": triton}
TRIALS = Trials(OP, "the norm")


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return TRIALS.last


def _check(
    x: Array, branch: Array | None, to: str | None, layers: int, **vectors: Array
) -> None:
    if x.ndim != 4:
        raise ValueError(f"{x.shape=} must be [B, G, N, D]")
    if branch is not None and branch.shape != x.shape:
        raise ValueError(f"{branch.shape=} must be that of {x.shape=}")
    wanted = (*((layers,) if layers else ()), *x.shape[:2], x.shape[3])
    for name, vector in vectors.items():
        if vector.shape != wanted:
            raise ValueError(f"{name}.shape={vector.shape} does not fit {x.shape=}")
    check_format(to)


def _function(
    name: str, backend: str | None, to: str | None, layers: int, *operands: Any
) -> Callable[..., Any]:
    """A backend's function of that name; the choice is this module's for None."""

    def run(backend: str) -> Callable[..., Any]:
        return functools.partial(getattr(_BACKENDS[backend], name), to=to)

    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    problem = problem_of(operands[0], name == "gated_residual_norm", to, layers)
    return run(TRIALS.pick(backend, problem, run, *operands))


def modulated_norm(
    x: Float[Array, "B G N D"],
    scale: Float[Array, "B G D"],
    shift: Float[Array, "B G D"],
    *,
    to: str | None = None,
    backend: str | None = None,
) -> Float[Array, "B G N D"] | Quantised:
    """rms_norm(x) * (1 + scale) + shift, in float32, one pass over x.

    RMS normalisation (Zhang and Sennrich 2019) over D with epsilon 1e-6, modulated by
    frame as in adaLN (Peebles and Xie 2023).

    Args:
      x: tokens of B streams and G frames.
      scale, shift: of each frame.
      to: None for the dtype of x, or "int8" or "float8_e4m3fn" with a scale per row.
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `pallas_kernels.choice`), without a measurement XLA.

    Raises:
      ValueError: the shapes do not fit, or an unknown format or backend.
      NotImplementedError: the backend cannot do this here.
    """
    _check(x, None, to, 0, scale=scale, shift=shift)
    operands = (x, scale, shift)
    return _function("modulated_norm", backend, to, 0, *operands)(*operands)


def gated_residual_norm(
    x: Float[Array, "B G N D"],
    branch: Float[Array, "B G N D"],
    gate: Float[Array, "*L B G D"],
    scale: Float[Array, "*L B G D"],
    shift: Float[Array, "*L B G D"],
    *,
    layer: Int[Array, ""] | int | None = None,
    to: str | None = None,
    backend: str | None = None,
) -> tuple[Float[Array, "B G N D"], Float[Array, "B G N D"] | Quantised]:
    """x + gate * branch in the dtype of x, and its `modulated_norm`.

    Args:
      x: the residual stream.
      branch: what attention or MLP adds to it.
      gate: of each frame; and, as scale and shift, of all layers where `layer` is
        given.
      layer: index of the layer in them. Our kernel reads it where it lies; XLA slices
        it, which may take a kernel of its own.
      scale, shift, to, backend: as in `modulated_norm`; and so are the errors.

    Returns:
      The new residual stream, and its norm (or `Quantised`).
    """
    layers = 0 if layer is None else gate.shape[0]
    _check(x, branch, to, layers, gate=gate, scale=scale, shift=shift)
    operands = (x, branch, gate, scale, shift, layer)
    call = _function("gated_residual_norm", backend, to, layers, *operands)
    total, y = call(*operands)
    return total, y
