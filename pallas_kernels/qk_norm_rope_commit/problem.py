"""Sizes of a commit, and how its kernel is cut."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from pallas_kernels.blocks import padded
from pallas_kernels.choice import Op, ratios

MOST_ELEMENTS = 8192  # of a half of a program's tokens: beyond, registers spill


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static sizes of one call.

    Attributes:
      batch: B, independent streams.
      groups: G, frames that one pass carries.
      tokens: N, of a frame.
      heads: K.
      width: E, channels of a head, even.
      layers: L of the cache.
      keys: M of the cache.
      dtype: of the projection, by name.
    """

    batch: int
    groups: int
    tokens: int
    heads: int
    width: int
    layers: int
    keys: int
    dtype: str = "bfloat16"


def problem_of(qkv: Any, slots: Any, starts: Any) -> Problem:
    """Sizes of the operands: the projection, the cache, and each frame's slot."""
    batch, queries, _, heads, width = qkv.shape
    groups = starts.shape[0]
    return Problem(
        batch=batch,
        groups=groups,
        tokens=queries // groups,
        heads=heads,
        width=width,
        layers=slots.shape[0],
        keys=slots.shape[2],
        dtype=jnp.dtype(qkv.dtype).name,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One way to cut the work.

    Attributes:
      rows: tokens of a program, a power of two.
      num_warps: warps of 32 threads a program: 1, 2, 4 or 8.
    """

    rows: int = 16
    num_warps: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or self.rows != padded(self.rows):
            raise ValueError(f"{self.rows=} must be a power of two")
        if self.num_warps not in (1, 2, 4, 8):
            raise ValueError(f"{self.num_warps=} must be 1, 2, 4 or 8")


def default_config(problem: Problem) -> Config:
    """Sixteen tokens of a head: 192 programs for 256 tokens of 12 heads."""
    return Config(min(16, padded(problem.tokens)), 4)


def search_space(problem: Problem) -> tuple[Config, ...]:
    """Configurations worth a measurement."""
    half = padded(problem.width // 2)
    return tuple(
        Config(rows, warps)
        for rows in (4, 8, 16, 32, 64)
        for warps in (1, 2, 4, 8)
        if rows * half <= MOST_ELEMENTS and rows <= padded(problem.tokens)
    )


def _distance(a: Problem, b: Problem) -> float:
    """Infinite unless heads are as wide and of the same type; the cache counts not."""
    if (a.width, a.dtype) != (b.width, b.dtype):
        return math.inf
    rows = [p.batch * p.groups * p.tokens for p in (a, b)]
    return ratios((rows[0], rows[1]), (a.heads, b.heads))


OP = Op("qk_norm_rope_commit", Problem, (("triton", Config),), _distance, ("xla",))
