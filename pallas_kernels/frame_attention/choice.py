"""Which backend, and which configuration of the Triton kernel, by measurement."""

import dataclasses
import functools
import math
import warnings

from pallas_kernels import tuned_table
from pallas_kernels.device import Device
from pallas_kernels.frame_attention.config import Config
from pallas_kernels.frame_attention.problem import Problem

OP = "frame_attention"
# Until a table says otherwise: proven on every NVIDIA GPU, and it runs anywhere.
UNMEASURED_ORDER = ("cudnn", "xla")
# Sum of |log2| of the ratios of all sizes up to which a measurement is used for a
# neighbour: one size twice as large, or several that are a little off.
_NEAR = 1.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """One row of the table: the best configuration, and the time of each backend."""

    problem: Problem
    config: Config
    microseconds: tuple[tuple[str, float], ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Backends, fastest first."""
        return tuple(name for name, _ in sorted(self.microseconds, key=lambda x: x[1]))


@functools.cache
def measured(device: Device) -> tuple[Measured, ...]:
    """All rows of the device's table; a senseless row is reported and left out."""
    rows = []
    for row in tuned_table.entries(device, OP):
        try:
            rows.append(
                Measured(
                    Problem(**row["problem"]),
                    Config(**row["config"]),
                    tuple((k, float(v)) for k, v in row["microseconds"].items()),
                )
            )
        except (TypeError, ValueError, AttributeError) as error:
            path = tuned_table.path_of(device)
            message = f"{path}: a row is left out: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    return tuple(rows)


def _distance(a: Problem, b: Problem) -> float:
    """Infinite unless types and head widths agree, as these decide what fits."""
    if (a.dtype, a.width) != (b.dtype, b.width):
        return math.inf
    pairs = (
        (a.batch * a.heads, b.batch * b.heads),
        (a.groups, b.groups),
        (a.queries, b.queries),
        (a.frames, b.frames),
        (a.keys, b.keys),
    )
    return sum(abs(math.log2(x / y)) for x, y in pairs)


def nearest(problem: Problem, device: Device) -> Measured | None:
    """The measurement of this problem or of one close to it."""
    rows = measured(device)
    if not rows:
        return None
    best = min(rows, key=lambda row: _distance(problem, row.problem))
    return best if _distance(problem, best.problem) <= _NEAR else None


def tuned_config(problem: Problem, device: Device) -> Config | None:
    """The fastest measured configuration; None where nothing was measured."""
    row = nearest(problem, device)
    return None if row is None else row.config


def backend_order(problem: Problem, device: Device | None) -> tuple[str, ...]:
    """Backends to try, best first; the last runs anywhere."""
    if device is None:
        return ("xla",)
    row = nearest(problem, device)
    measured = () if row is None else row.order
    return tuple(dict.fromkeys((*measured, *UNMEASURED_ORDER)))
