"""Dense layers in 16 bits, with what follows them fused in."""

from pallas_kernels.linear.api import backends, last_backend, linear

__all__ = ["backends", "last_backend", "linear"]
