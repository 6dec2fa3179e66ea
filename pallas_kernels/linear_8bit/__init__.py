"""Dense layers on 8-bit operands, with what follows them fused in."""

from pallas_kernels.linear_8bit.api import (
    Weight8,
    backends,
    last_backend,
    linear_8bit,
    quantise_weight,
)

__all__ = ["Weight8", "backends", "last_backend", "linear_8bit", "quantise_weight"]
