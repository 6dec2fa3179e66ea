"""What benchmark and tuner of the kernels must know of one operation at one shape.

A program of many calls is timed, in which XLA leaves out what nobody reads, even of a
call that it keeps, and makes calls of equal operands once. So every call must read
something of the one before (`linked`), and no output may be read in part alone
(`whole`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.choice import Op
from pallas_kernels.timing import Sets, Step

OURS = ("triton", "mosaic")  # how the names of our own kernels begin
DEFINITION = "reference"  # the backend that is obviously right, in float32


@dataclasses.dataclass(frozen=True)
class Rival:
    """One way to do it.

    Attributes:
      step: what is timed.
      sets: its operands, in turn.
      wanted: what the first call must return.
      complete: whether it does the whole job; else it is no substitute, only a mark.
    """

    step: Step
    sets: Sets
    wanted: Any
    complete: bool = True


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation at one shape, with its operands.

    Attributes:
      op: name of the operation.
      carry: what the first call gets.
      rivals: by name.
      bytes_moved, flops: of one call, each number once.
      tolerance: largest relative error that rounding explains.
      record: what else the results' setup says of it.
    """

    op: str
    carry: Any
    rivals: Mapping[str, Rival]
    bytes_moved: float
    flops: float
    tolerance: float
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Contest:
    """One operation at one shape, and the backends that its dispatcher may choose.

    Attributes:
      op: the operation.
      problem: its sizes, as the dispatcher asks the table for them.
      backends: names of those that compete.
      draw: makes what the first call gets, and sets of operands.
      step: of a backend and one of its configurations, None for what the dispatcher
        would take; also of `DEFINITION`. Made of functions of modules alone, so that
        it can be sent to another process.
      bytes_moved, flops, tolerance: as in `Case`.
    """

    op: Op
    problem: Any
    backends: tuple[str, ...]
    draw: Callable[[], tuple[Any, Sets]]
    step: Callable[[str, Any], Step]
    bytes_moved: float
    flops: float
    tolerance: float

    def case(self) -> Case:
        """All backends with what the dispatcher would give them, to be compared."""
        carry, sets = self.draw()
        steps = {name: self.step(name, None) for name in self.backends}
        return Case(
            op=self.op.name,
            carry=carry,
            rivals=same_operands(steps, self.step(DEFINITION, None), carry, sets),
            bytes_moved=self.bytes_moved,
            flops=self.flops,
            tolerance=self.tolerance,
            record={"problem": dataclasses.asdict(self.problem)},
        )


def same_operands(
    steps: Mapping[str, Step], exact: Step, carry: Any, sets: Sets
) -> dict[str, Rival]:
    """Rivals that all read the same and are all compared with one definition."""
    wanted = jax.jit(exact)(carry, sets[0])
    return {name: Rival(step, sets, wanted) for name, step in steps.items()}


def linked(x: Array, last: Array) -> Array:
    """x with a number of `last`, made small, in its first place.

    It costs a tiny kernel, in every rival.
    """
    number = last[(0,) * last.ndim].astype(jnp.float32)
    return x.at[(0,) * x.ndim].set((0.01 + 1e-3 * jnp.abs(number)).astype(x.dtype))


def whole(outputs: Any) -> Any:
    """The outputs of a call behind a barrier: all of them are computed, or none."""
    return jax.lax.optimization_barrier(outputs)
