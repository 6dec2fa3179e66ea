"""How the Triton kernel of the 8-bit dense layer is cut."""

import dataclasses
import itertools

from pallas_kernels.blocks import padded
from pallas_kernels.choice import ratios
from pallas_kernels.linear.problem import Problem

LEAST_BLOCK = 16
LEAST_INNER = 32  # inputs that a matrix unit takes of 8-bit numbers
_REGISTERS = 200  # 32-bit registers a thread that the accumulator may take, of 255


@dataclasses.dataclass(frozen=True)
class Config:
    """One way to cut the work.

    Attributes:
      block_m: rows of a program, a power of two from 16 on.
      block_n: outputs of a program, a power of two from 16 on.
      block_k: inputs read at a time, a power of two from 32 on.
      num_warps: warps of 32 threads a program: 1, 2, 4, 8 or 16.
      num_stages: blocks in flight, 1 to 8.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        for name, least in (
            ("block_m", LEAST_BLOCK),
            ("block_n", LEAST_BLOCK),
            ("block_k", LEAST_INNER),
        ):
            size = getattr(self, name)
            if size < least or size != padded(size):
                raise ValueError(
                    f"{name}={size} must be a power of two from {least} on"
                )
        if self.num_warps not in (1, 2, 4, 8, 16):
            raise ValueError(f"{self.num_warps=} must be 1, 2, 4, 8 or 16")
        if not 1 <= self.num_stages <= 8:
            raise ValueError(f"{self.num_stages=} must be 1 to 8")


def shared_memory(config: Config) -> int:
    """Bytes a program takes: `num_stages` blocks of both operands, a byte a number."""
    return config.num_stages * config.block_k * (config.block_m + config.block_n)


def programs(config: Config, problem: Problem) -> int:
    """Programs of the kernel."""
    down = -(-problem.rows // config.block_m)
    return down * -(-problem.outputs // config.block_n)


def default_config(problem: Problem, shared_bytes: int, cores: int) -> Config:
    """The largest blocks that fit and still give every multiprocessor a program."""
    sizes = ((128, 128, 8), (64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 32, 2))
    candidates = [
        Config(m, n, 128, warps, stages)
        for m, n, warps in sizes
        for stages in (4, 3, 2)
    ]
    fitting = [c for c in candidates if 2 * shared_memory(c) <= shared_bytes]
    busy = [c for c in fitting if programs(c, problem) >= cores]
    return busy[0] if busy else fitting[-1]


def search_space(problem: Problem, shared_bytes: int, cores: int) -> tuple[Config, ...]:
    """Configurations worth a measurement, those most like the default first."""
    everything = itertools.product(
        (16, 32, 64, 128), (32, 64, 128, 256), (64, 128, 256), (4, 8), (2, 3, 4, 5)
    )
    found = (
        config
        for config in itertools.starmap(Config, everything)
        if shared_memory(config) <= shared_bytes
        and config.block_m * config.block_n / (32 * config.num_warps) <= _REGISTERS
        and cores // 2 <= programs(config, problem)
        and config.block_m < 2 * problem.rows
        and config.block_k <= problem.inputs
    )
    start = default_config(problem, shared_bytes, cores)

    def distance(config: Config) -> float:
        pairs = zip(
            dataclasses.astuple(config), dataclasses.astuple(start), strict=True
        )
        return ratios(*pairs)

    return tuple(sorted({*found, start}, key=lambda c: (distance(c), str(c))))
