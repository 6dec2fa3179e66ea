"""Rows of activations to 8 bits and a scale each."""

from pallas_kernels.quantise.api import backends, quantise

__all__ = ["backends", "quantise"]
