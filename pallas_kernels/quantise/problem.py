"""Sizes of a quantisation of rows."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from pallas_kernels.choice import Op, ratios


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static sizes of one call.

    Attributes:
      rows: product of all axes but the last.
      width: D.
      to: 8-bit format of the result.
      dtype: of x, by name.
    """

    rows: int
    width: int
    to: str
    dtype: str = "bfloat16"


def problem_of(x: Any, to: str) -> Problem:
    """Sizes of the quantisation of x [..., D]."""
    *lead, width = x.shape
    return Problem(math.prod(lead), width, to, jnp.dtype(x.dtype).name)


def _distance(a: Problem, b: Problem) -> float:
    """Infinite unless both go from one type to the same other one."""
    if (a.to, a.dtype) != (b.to, b.dtype):
        return math.inf
    return ratios((a.rows, b.rows), (a.width, b.width))


OP = Op("quantise", Problem, (), _distance, ("xla",))
