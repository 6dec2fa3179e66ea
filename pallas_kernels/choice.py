"""Which backend, and which configuration of it, by measurement: for every operation.

An operation describes itself once (`Op`); its rows in the device's table are read by
`measured`, and a call takes the row of the nearest problem.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

from pallas_kernels import tuned_table
from pallas_kernels.device import Device

# Distance up to which a measurement is used for a neighbour: one size twice as large,
# or several that are a little off.
NEAR = 1.0


@dataclasses.dataclass(frozen=True)
class Op:
    """What the chooser must know of an operation.

    Attributes:
      name: of its rows in the table.
      problem: the dataclass of its static sizes.
      configs: (backend, dataclass of its configurations), of those that have any.
      distance: between two problems; infinite where one's measurement says nothing
        about the other.
      unmeasured: backends to try without a measurement, the last of which runs
        anywhere.
    """

    name: str
    problem: type[Any]
    configs: tuple[tuple[str, type[Any]], ...]
    distance: Callable[[Any, Any], float]
    unmeasured: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One row of the table: the time of each backend, and its best configuration."""

    problem: Any
    configs: tuple[tuple[str, Any], ...]
    microseconds: tuple[tuple[str, float], ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Backends, fastest first."""
        return tuple(name for name, _ in sorted(self.microseconds, key=lambda x: x[1]))


@functools.cache
def measured(op: Op, device: Device) -> tuple[Measured, ...]:
    """All rows of an operation, read once; a senseless row is reported and left out.

    Those of the device's own table come first: of equally near ones they are taken.
    """
    known, rows = dict(op.configs), []
    for path, row in tuned_table.entries(device, op.name):
        try:
            rows.append(
                Measured(
                    op.problem(**row["problem"]),
                    tuple((k, known[k](**v)) for k, v in row["configs"].items()),
                    tuple((k, float(v)) for k, v in row["microseconds"].items()),
                )
            )
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            message = f"{path}: a row is left out: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    return tuple(rows)


def nearest(op: Op, problem: Any, device: Device) -> Measured | None:
    """The measurement of this problem or of one close to it."""
    rows = measured(op, device)
    if not rows:
        return None
    best = min(rows, key=lambda row: op.distance(problem, row.problem))
    return best if op.distance(problem, best.problem) <= NEAR else None


def tuned_config(op: Op, problem: Any, device: Device, backend: str) -> Any | None:
    """A backend's fastest measured configuration; None where nothing was measured."""
    row = nearest(op, problem, device)
    return None if row is None else dict(row.configs).get(backend)


def backend_order(op: Op, problem: Any, device: Device | None) -> tuple[str, ...]:
    """Backends to try, best first; the last runs anywhere."""
    if device is None:
        return op.unmeasured[-1:]
    row = nearest(op, problem, device)
    order = () if row is None else row.order
    return tuple(dict.fromkeys((*order, *op.unmeasured)))


def ratios(*pairs: tuple[float, float]) -> float:
    """Sum of |log2| of the ratios: how far two problems' sizes are apart."""
    return sum(abs(math.log2(x / y)) for x, y in pairs)
