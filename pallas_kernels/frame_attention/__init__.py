"""Attention of the frames in one pass over prompt, anchor and ring slots."""

from pallas_kernels.frame_attention.api import (
    EMPTY_SLOT,
    backends,
    frame_attention,
    last_backend,
)

__all__ = ["EMPTY_SLOT", "backends", "frame_attention", "last_backend"]
