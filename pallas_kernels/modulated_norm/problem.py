"""Sizes of a modulated norm, and how its kernel is cut."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from pallas_kernels.blocks import padded
from pallas_kernels.choice import Op, ratios

MOST_ELEMENTS = 16384  # of a program's rows: beyond, registers spill


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static sizes of one call.

    Attributes:
      frames: B * G, frames with a modulation of their own.
      tokens: N.
      width: D.
      gated: with a gated residual before the norm.
      to: 8-bit format of the result, or None.
      dtype: of x, by name.
      layers: length of the leading axis of gate, scale and shift; 0 where they have
        none.
    """

    frames: int
    tokens: int
    width: int
    gated: bool = False
    to: str | None = None
    dtype: str = "bfloat16"
    layers: int = 0


def problem_of(x: Any, gated: bool, to: str | None, layers: int = 0) -> Problem:
    """Sizes of a norm of x [B, G, N, D]."""
    b, g, tokens, width = x.shape
    return Problem(b * g, tokens, width, gated, to, jnp.dtype(x.dtype).name, layers)


@dataclasses.dataclass(frozen=True)
class Config:
    """One way to cut the work.

    Attributes:
      rows: tokens of a program, a power of two.
      num_warps: warps of 32 threads a program: 1, 2, 4, 8 or 16.
    """

    rows: int = 1
    num_warps: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or self.rows != padded(self.rows):
            raise ValueError(f"{self.rows=} must be a power of two")
        if self.num_warps not in (1, 2, 4, 8, 16):
            raise ValueError(f"{self.num_warps=} must be 1, 2, 4, 8 or 16")


def default_config(problem: Problem) -> Config:
    """A row a program; a warp for every 512 numbers, so that each thread loads 16."""
    warps = min(max(padded(problem.width) // 512, 1), 16)
    return Config(1, warps)


def search_space(problem: Problem) -> tuple[Config, ...]:
    """Configurations worth a measurement, the default first."""
    others = (
        Config(rows, warps)
        for rows in (1, 2, 4, 8)
        for warps in (1, 2, 4, 8)
        if rows * padded(problem.width) <= MOST_ELEMENTS and rows <= problem.tokens
    )
    return tuple(dict.fromkeys((default_config(problem), *others)))


def _distance(a: Problem, b: Problem) -> float:
    """Infinite unless both do the same with numbers of the same types."""
    if (a.gated, a.to, a.dtype) != (b.gated, b.to, b.dtype):
        return math.inf
    rows = a.frames * a.tokens, b.frames * b.tokens
    return ratios(rows, (a.width, b.width))


OP = Op("modulated_norm", Problem, (("triton", Config),), _distance, ("xla",))
