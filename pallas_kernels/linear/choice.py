"""What the chooser of backends must know of the dense layer in 16 bits."""

from pallas_kernels.choice import Op
from pallas_kernels.linear.config import Config
from pallas_kernels.linear.problem import Problem, distance

OP = Op("linear", Problem, (("mosaic", Config),), distance, ("xla",))
