"""How the Hopper kernel of the dense layers is cut into blocks of threads.

A configuration changes the time, never the result beyond rounding. `default_config`
takes what a simple model of the card thinks fastest; better ones are measured.
"""

import dataclasses
import itertools
import math

import jax.numpy as jnp

from pallas_kernels._mosaic import SHARED_MEMORY
from pallas_kernels.linear.problem import Problem

SWIZZLE = 128  # bytes of a row of both operands' tiles, as the matrix units like it
LARGEST_CLUSTER = 8  # that every Hopper card takes
# A thread's for sum and epilogue, of 232: more spills, says the compiler.
_REGISTERS = 216
_BARRIERS = 1024  # bytes for them, generously


@dataclasses.dataclass(frozen=True)
class Config:
    """One way to cut the work.

    Attributes:
      tile_m: rows of a block: 64 or 128 for each warpgroup.
      tile_n: outputs of a block, a multiple of 8 up to 256.
      tile_k: inputs read at a time.
      warpgroups: that compute, 1 or 2; one more fetches.
      split: blocks that share the inputs of one tile.
      stages: tiles of both operands in flight, 2 to 8.
      share_rows: blocks, below each other, that share the weight's tiles.
      share_outputs: blocks, beside each other, that share x's tiles.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    warpgroups: int
    split: int
    stages: int
    share_rows: int = 1
    share_outputs: int = 1

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r} must be a positive integer")
        if self.warpgroups > 2:
            raise ValueError(f"{self.warpgroups=} must be 1 or 2")
        if self.tile_m not in (64 * self.warpgroups, 128 * self.warpgroups):
            raise ValueError(f"{self.tile_m=} must be 64 or 128 a warpgroup")
        if self.tile_n % 8 or self.tile_n > 256:
            raise ValueError(f"{self.tile_n=} must be a multiple of 8 up to 256")
        if self.tile_k % 64:
            raise ValueError(f"{self.tile_k=} must be a multiple of 64")
        if not 2 <= self.stages <= 8:
            raise ValueError(f"{self.stages=} must be 2 to 8")
        if self.tile_n % (8 * self.split):
            raise ValueError(
                f"{self.split=} must leave multiples of 8 of {self.tile_n=}"
            )
        if self.cluster > LARGEST_CLUSTER:
            raise ValueError(
                f"{self.cluster=} must be at most {LARGEST_CLUSTER} blocks"
            )

    @property
    def cluster(self) -> int:
        """Blocks of a cluster."""
        return self.split * self.share_rows * self.share_outputs

    @property
    def height(self) -> int:
        """Rows of a warpgroup."""
        return self.tile_m // self.warpgroups

    @property
    def own(self) -> int:
        """Outputs that a block finishes."""
        return self.tile_n // self.split


def shared_memory(config: Config, problem: Problem) -> int:
    """Bytes a block takes: the ring or, later in its place, sums and result."""
    c = config
    ring = c.stages * c.tile_k * (c.tile_m + c.tile_n) * problem.itemsize
    result = c.tile_m * c.own * jnp.dtype(problem.dtype).itemsize
    sums = 4 * c.tile_m * c.tile_n if c.split > 1 else 0
    return max(ring, result + sums) + _BARRIERS


def registers(config: Config, problem: Problem) -> int:
    """32-bit registers a thread for the sum and the epilogue's operands.

    A thread holds two of eight neighbouring columns, of every eighth row: a vector over
    the columns costs it a quarter of its length, halved in 16 bits.
    """
    c, p = config, problem
    vectors = c.own // 8 * (p.biased + p.gated)
    if p.eight_bit:
        vectors += c.own // 4 + c.height // 32
    residual = c.height * c.own // 256 if p.residual else 0
    return c.height * c.tile_n // 128 + vectors + residual


def blocks(config: Config, problem: Problem) -> int:
    """Blocks of the kernel."""
    tiles = problem.rows // config.tile_m * (problem.outputs // config.tile_n)
    return tiles * config.split


def misfit(config: Config, problem: Problem) -> str | None:
    """Why a configuration cannot do this problem; None where it can."""
    c, p = config, problem
    if p.rows % (c.tile_m * c.share_rows):
        return f"{p.rows} rows are no multiple of {c.tile_m * c.share_rows}"
    if p.outputs % (c.tile_n * c.share_outputs):
        return f"{p.outputs} outputs are no multiple of {c.tile_n * c.share_outputs}"
    if p.inputs % (c.tile_k * c.split):
        return f"{p.inputs} inputs are no multiple of {c.tile_k * c.split}"
    if c.tile_k * p.itemsize % SWIZZLE:
        return f"{c.tile_k} inputs at a time are no multiple of {SWIZZLE} bytes"
    if not p.eight_bit and c.tile_n * p.itemsize % SWIZZLE:
        return f"{c.tile_n} outputs are no multiple of {SWIZZLE} bytes"
    if p.format == "int8" and c.tile_n % 16:
        return f"{c.tile_n} outputs are no multiple of 16, as integer units want"
    # A shared tile is fetched in slices of its rows, and swizzled eight by eight.
    weight_rows = c.tile_n if p.eight_bit else c.tile_k
    if c.tile_m % (8 * c.share_outputs) or weight_rows % (8 * c.share_rows):
        return "a share of a tile must have a multiple of 8 rows"
    if p.gated and p.frames > 1 and p.tokens % c.height:
        return f"{c.height} rows may belong to two frames of {p.tokens}"
    if registers(c, p) > _REGISTERS:
        return f"{registers(c, p)} registers a thread are too many"
    if shared_memory(c, p) > SHARED_MEMORY:
        return f"{shared_memory(c, p)} bytes of shared memory are too much"
    return None


def estimate(config: Config, problem: Problem, cores: int) -> float:
    """Microseconds that a simple model of an H100 expects.

    The largest of: operations at the matrix units' rate, bytes through the L2 cache at
    about 5.5 TB/s, the weight at about 2.7 TB/s from memory; then filling the ring, the
    launch, and the exchange of sums. The blocks of a cluster are neighbours on the card
    (one of its 8 groups of multiprocessors), so a large cluster leaves some idle.
    """
    c, p = config, problem
    usable = cores
    if c.cluster > 2:
        usable = 8 * (cores // 8 // c.cluster) * c.cluster
    turns = math.ceil(blocks(c, p) / max(usable, 1))
    steps = p.inputs // (c.split * c.tile_k)
    rate = 2048 * 2 / p.itemsize * 1.6e3  # products a microsecond and multiprocessor
    products = turns * steps * c.tile_m * c.tile_n * c.tile_k / rate
    step_bytes = c.tile_k * (c.tile_m / c.share_outputs + c.tile_n / c.share_rows)
    fetched = blocks(c, p) * steps * step_bytes * p.itemsize / 5.5e6
    weight = p.inputs * p.outputs * p.itemsize / 2.7e6
    shallow = 2.0 / c.stages  # a ring of few slots does not hide the way to memory
    exchange = 0.0 if c.split == 1 else 0.5 + c.tile_m * c.tile_n / 30_000
    return max(products, fetched, weight) + turns * (1.0 + exchange + shallow)


def _all_fitting(problem: Problem) -> list[Config]:
    """Every way to cut the work, each with the deepest ring."""
    inner = (SWIZZLE // problem.itemsize, 2 * SWIZZLE // problem.itemsize)
    everything = itertools.product(
        (1, 2),
        (64, 128),
        range(16, 257, 16),
        inner,
        (1, 2, 3, 4, 5, 6, 8),
        ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (4, 1)),
    )
    found = []
    for groups, height, tile_n, tile_k, split, (down, across) in everything:
        if tile_n % (8 * split) or split * down * across > LARGEST_CLUSTER:
            continue
        cut = (groups * height, tile_n, tile_k, groups, split)
        fitting = [
            config
            for stages in range(8, 1, -1)
            if misfit(config := Config(*cut, stages, down, across), problem) is None
        ]
        found += fitting[:1]
    return found


def search_space(problem: Problem, cores: int, most: int = 32) -> tuple[Config, ...]:
    """Configurations worth a measurement, the likeliest first; perhaps none."""

    def rank(config: Config) -> tuple[float, int, int]:
        # Of equals: two warpgroups, which share the epilogue, in the smaller cluster.
        expected = round(estimate(config, problem, cores), 2)
        return expected, -config.warpgroups, config.cluster

    return tuple(sorted(_all_fitting(problem), key=rank)[:most])


def default_config(problem: Problem, cores: int) -> Config:
    """What the model thinks fastest, not measured.

    Raises:
      NotImplementedError: no tile divides the sizes.
    """
    found = search_space(problem, cores, most=1)
    if not found:
        raise NotImplementedError(f"no tiles of the Hopper kernel fit {problem}")
    return found[0]
