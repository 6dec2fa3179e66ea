"""Rows of activations to 8 bits and a scale each."""

from pallas_kernels.quantise.api import backends, last_backend, quantise

__all__ = ["backends", "last_backend", "quantise"]
