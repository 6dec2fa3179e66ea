"""From the fused projection to rotated queries and committed keys and values."""

from pallas_kernels.qk_norm_rope_commit.api import (
    backends,
    last_backend,
    qk_norm_rope_commit,
)

__all__ = ["backends", "last_backend", "qk_norm_rope_commit"]
