"""What the chooser of backends must know of the dense layer in 8 bits."""

from pallas_kernels.choice import Op
from pallas_kernels.linear.config import Config as MosaicConfig
from pallas_kernels.linear.problem import Problem, distance
from pallas_kernels.linear_8bit.config import Config

OP = Op(
    "linear_8bit",
    Problem,
    (("triton", Config), ("mosaic", MosaicConfig)),
    distance,
    ("xla",),
)
