"""Sizes of a dense layer."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from pallas_kernels.choice import ratios
from pallas_kernels.eight_bit import LARGEST


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static sizes of one call.

    Attributes:
      frames: B * G.
      tokens: N of each frame.
      inputs: K.
      outputs: D.
      format: of both operands: "bfloat16", "float16", "int8" or "float8_e4m3fn".
      activation: None or "gelu".
      biased, gated, residual: which of the epilogue's operands there are.
      dtype: of the result, by name.
    """

    frames: int
    tokens: int
    inputs: int
    outputs: int
    format: str = "bfloat16"
    activation: str | None = None
    biased: bool = True
    gated: bool = False
    residual: bool = False
    dtype: str = "bfloat16"

    @property
    def rows(self) -> int:
        return self.frames * self.tokens

    @property
    def eight_bit(self) -> bool:
        return self.format in LARGEST

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the operands."""
        return 1 if self.eight_bit else 2

    @property
    def accumulator(self) -> Any:
        """What products are summed in."""
        return jnp.int32 if self.format == "int8" else jnp.float32


def problem_of(
    x: Any,
    outputs: int,
    bias: Any,
    residual: Any,
    gate: Any,
    *,
    activation: str | None,
    dtype: Any,
) -> Problem:
    """Sizes of a layer of x [B, G, N, K], 8-bit values or not."""
    b, g, tokens, inputs = x.shape
    return Problem(
        frames=b * g,
        tokens=tokens,
        inputs=inputs,
        outputs=outputs,
        format=jnp.dtype(x.dtype).name,
        activation=activation,
        biased=bias is not None,
        gated=gate is not None,
        residual=residual is not None,
        dtype=jnp.dtype(dtype).name,
    )


def distance(a: Problem, b: Problem) -> float:
    """Infinite unless the same matrix in the same format is read."""
    same = ("inputs", "outputs", "format")
    if any(getattr(a, name) != getattr(b, name) for name in same):
        return math.inf
    return ratios((a.rows, b.rows))
