"""RMS norm with the modulation of adaLN, alone or behind a gated residual."""

from pallas_kernels.eight_bit import Quantised
from pallas_kernels.modulated_norm.api import (
    backends,
    gated_residual_norm,
    last_backend,
    modulated_norm,
)

__all__ = [
    "Quantised",
    "backends",
    "gated_residual_norm",
    "last_backend",
    "modulated_norm",
]
