"""What a benchmark of kernels must know of one operation at one shape."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pallas_kernels.timing import Step

OURS = ("triton", "mosaic")  # how the names of our own kernels begin


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
    sets: Sequence[Any]
    wanted: Any
    complete: bool = True


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation at one shape.

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


def same_operands(
    steps: Mapping[str, Step], exact: Step, carry: Any, sets: Sequence[Any]
) -> dict[str, Rival]:
    """Rivals that all read the same and are all compared with one definition."""
    wanted = jax.jit(exact)(carry, sets[0])
    return {name: Rival(step, sets, wanted) for name, step in steps.items()}
