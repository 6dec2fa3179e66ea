"""Sizes of a commit, and how its kernel is cut."""

import dataclasses

from pallas_kernels.blocks import padded

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
