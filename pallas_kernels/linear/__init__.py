"""Dense layers in 16 bits, with what follows them fused in."""

from pallas_kernels.linear.api import backends, linear

__all__ = ["backends", "linear"]
