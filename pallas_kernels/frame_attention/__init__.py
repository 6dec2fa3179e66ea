"""Attention of the frames in one pass over prompt, anchor and ring slots."""

from pallas_kernels.frame_attention.api import (
    EMPTY_SLOT,
    backends,
    frame_attention,
    last_backend,
)
from pallas_kernels.frame_attention.triton import ATTENDED

__all__ = ["ATTENDED", "EMPTY_SLOT", "backends", "frame_attention", "last_backend"]
