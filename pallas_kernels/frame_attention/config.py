"""How the Triton kernel of frame attention is cut into programs.

A configuration changes the time, never the result beyond rounding. `default_config`
is safe on any card; better ones are measured (see `choice`).
"""

import dataclasses
import itertools

from pallas_kernels import blocks
from pallas_kernels.device import Device
from pallas_kernels.frame_attention.problem import Problem

LEAST_BLOCK = 16  # rows and columns that a matrix unit takes
WIDEST_HEAD = 256  # above, no block of queries and keys fits into a small card
_REGISTERS = 200  # 32-bit registers a thread that its tiles may take, of 255


def padded(size: int) -> int:
    """The power of two that holds `size`, at least `LEAST_BLOCK`."""
    return blocks.padded(size, LEAST_BLOCK)


@dataclasses.dataclass(frozen=True)
class Config:
    """One way to cut the work.

    Attributes:
      block_q: queries a program holds; a power of two from 16 on.
      block_k: keys it reads at a time; a power of two from 16 on.
      split: programs that share the frame slots of one block of queries.
      num_warps: warps of 32 threads a program; 1, 2, 4, 8 or 16.
      num_stages: blocks of K and V in flight, 1 to 8.
    """

    block_q: int
    block_k: int
    split: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int:
                raise ValueError(f"{name}={value!r} must be an integer")
        for name in ("block_q", "block_k"):
            size = getattr(self, name)
            if size < LEAST_BLOCK or size != padded(size):
                raise ValueError(f"{name}={size} must be a power of two from 16 on")
        if self.split < 1:
            raise ValueError(f"{self.split=} must be positive")
        if self.num_warps not in (1, 2, 4, 8, 16):
            raise ValueError(f"{self.num_warps=} must be 1, 2, 4, 8 or 16")
        if not 1 <= self.num_stages <= 8:
            raise ValueError(f"{self.num_stages=} must be 1 to 8")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How one kernel of the gradient is cut.

    Attributes:
      queries, keys: of a block; powers of two from 16 on.
      num_warps, num_stages: as in `Config`.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def default_backward(problem: Problem, device: Device) -> tuple[Blocks, Blocks]:
    """For the gradient of keys and values, and for that of queries.

    What a program holds is its large block, what it reads again and again the small
    one.
    """
    row = padded(problem.width) * problem.itemsize
    if device.shared_memory >= 200_000 and row <= 256:
        # The best of some ten on an H200, see docs/results/clip_attention_*.json.
        wide = padded(problem.width) > 64
        of_keys = Blocks(64, 128, 8, 3) if wide else Blocks(64, 64, 4, 3)
        of_queries = Blocks(64, 64, 4, 2 if wide else 3)
    else:
        small, large = (32, 64) if row <= 256 else (16, 32)
        of_keys, of_queries = Blocks(small, large, 4, 2), Blocks(large, small, 4, 2)
    queries, keys = padded(problem.queries), padded(problem.keys)

    def within(blocks: Blocks) -> Blocks:
        return dataclasses.replace(
            blocks, queries=min(blocks.queries, queries), keys=min(blocks.keys, keys)
        )

    return within(of_keys), within(of_queries)


def shared_memory(config: Config, problem: Problem) -> int:
    """Bytes a program may take, checked against the compiler's own count.

    Its queries, `num_stages` blocks of K and of V; later, in the same place, the
    float32 output on its way to another layout. And for the sums over a row that
    warps share a float32 a query.
    """
    width = padded(problem.width)
    rows = config.block_q + 2 * config.num_stages * config.block_k
    output = 4 * config.block_q * width
    return max(rows * width * problem.itemsize, output) + 4 * config.block_q


def programs(config: Config, problem: Problem) -> int:
    """Programs of the main kernel."""
    blocks = problem.groups * -(-problem.queries // config.block_q)
    return blocks * problem.heads * problem.batch * config.split


def _registers(config: Config, problem: Problem) -> float:
    """Registers a thread for accumulator and logits, which decide whether it spills."""
    tile = config.block_q * (padded(problem.width) + config.block_k)
    return tile / (32 * config.num_warps)


def _splits(problem: Problem) -> list[int]:
    """Numbers of shares without an idle one, as each takes 1, 2, 3, ... slots."""
    return sorted(
        {-(-problem.frames // slots) for slots in range(1, problem.frames + 1)}
    )


def default_config(problem: Problem, device: Device) -> Config:
    """A configuration that fits and fills the card, not measured.

    Blocks of 64 queries and keys, of 128 queries where shared memory is ample; two
    programs a multiprocessor where they fit; keys shared out where the queries alone
    leave multiprocessors idle.
    """
    ample = device.shared_memory >= 200_000
    block_q = min(128 if ample else 64, padded(problem.queries))
    warps = 8 if block_q == 128 else 4
    block_k = min(64, padded(problem.keys))
    candidates = [
        Config(block_q, keys, 1, warps, stages)
        for keys in (block_k, block_k // 2, LEAST_BLOCK)
        for stages in (3, 2, 1)
        if keys >= LEAST_BLOCK
    ]

    def fits(budget: int) -> list[Config]:
        return [c for c in candidates if shared_memory(c, problem) <= budget]

    half, whole = fits(device.shared_memory // 2), fits(device.shared_memory)
    # One stage means waiting for memory at every block: rather one program than that.
    overlapped = [c for c in half + whole if c.num_stages > 1]
    config = (overlapped or whole)[0]
    busy = programs(config, problem)
    wanted = 1 if busy >= device.cores else 2 * device.cores // busy
    split = max(s for s in _splits(problem) if s <= max(1, wanted))
    return dataclasses.replace(config, split=split)


def search_space(problem: Problem, device: Device) -> tuple[Config, ...]:
    """Configurations worth a measurement, the likeliest first.

    Left out: what does not fit into shared memory or registers, blocks larger than a
    frame, and splits that leave most of the card idle or flood it with partial sums.
    """
    start = default_config(problem, device)
    everything = itertools.product(
        (16, 32, 64, 128), (16, 32, 64, 128), _splits(problem), (4, 8), (1, 2, 3, 4)
    )
    found = []
    for config in itertools.starmap(Config, everything):
        count = programs(config, problem)
        alone = programs(dataclasses.replace(config, split=1), problem)
        most = programs(dataclasses.replace(config, split=problem.frames), problem)
        if (
            shared_memory(config, problem) <= device.shared_memory
            and _registers(config, problem) <= _REGISTERS
            and min(32, padded(problem.queries)) <= config.block_q
            and config.block_q <= padded(problem.queries)
            and min(32, padded(problem.keys)) <= config.block_k
            and config.block_k <= padded(problem.keys)
            and (config.split == 1 or alone < 2 * device.cores)
            and count >= min(device.cores // 2, most)
        ):
            found.append(config)

    def distance(config: Config) -> float:
        a, b = dataclasses.astuple(config), dataclasses.astuple(start)
        return sum(max(x, y) / min(x, y) - 1 for x, y in zip(a, b, strict=True))

    return tuple(sorted({*found, start}, key=lambda c: (distance(c), str(c))))
