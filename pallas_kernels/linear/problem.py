"""Sizes of a dense layer."""

import dataclasses
from typing import Any

import jax.numpy as jnp

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
