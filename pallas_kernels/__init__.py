"""Kernels of the frame loop: one folder an operation, one dispatcher each."""
