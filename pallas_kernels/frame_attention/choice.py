"""What the chooser of backends must know of frame attention."""

import math

from pallas_kernels.choice import Op, ratios
from pallas_kernels.frame_attention.config import Config
from pallas_kernels.frame_attention.mosaic_config import MosaicConfig
from pallas_kernels.frame_attention.problem import Problem


def _distance(a: Problem, b: Problem) -> float:
    """Infinite unless types and head widths agree, as these decide what fits."""
    if (a.dtype, a.width) != (b.dtype, b.width):
        return math.inf
    return ratios(
        (a.batch * a.heads, b.batch * b.heads),
        (a.groups, b.groups),
        (a.queries, b.queries),
        (a.frames, b.frames),
        (a.keys, b.keys),
    )


OP = Op(
    "frame_attention",
    Problem,
    (("triton", Config), ("mosaic", MosaicConfig)),
    _distance,
    # Until a table says otherwise. In every row of ours Triton, which reads keys where
    # they lie, is faster than cuDNN, for which a layer's cache is sliced, joined with
    # its bias and copied. cuDNN runs on older cards too, and XLA anywhere.
    ("triton", "cudnn", "xla"),
)
