"""How the Hopper kernel of frame attention is cut into clusters."""

import dataclasses

from pallas_kernels._mosaic import SHARED_MEMORY
from pallas_kernels.device import Device
from pallas_kernels.frame_attention.problem import Problem

ROWS = 64  # queries of a warpgroup: what a wgmma instruction takes
LARGEST_CLUSTER = 8  # blocks that any Hopper card can place together


@dataclasses.dataclass(frozen=True)
class MosaicConfig:
    """One way to cut the work.

    Attributes:
      block_k: keys of a tile; 64 or 128.
      split: blocks of a cluster, which share the keys of one block of queries; 1 to 8.
      num_stages: tiles of K and of V in flight, 1 or more.
      warpgroups: of 64 queries each; 1 or 2.
    """

    block_k: int
    split: int
    num_stages: int
    warpgroups: int = 2

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int:
                raise ValueError(f"{name}={value!r} must be an integer")
        if self.block_k not in (64, 128):
            raise ValueError(f"{self.block_k=} must be 64 or 128")
        if not 1 <= self.split <= LARGEST_CLUSTER:
            raise ValueError(f"{self.split=} must be 1 to {LARGEST_CLUSTER}")
        if self.num_stages < 1:
            raise ValueError(f"{self.num_stages=} must be positive")
        if self.warpgroups not in (1, 2):
            raise ValueError(f"{self.warpgroups=} must be 1 or 2")

    @property
    def pieces(self) -> int:
        """Pieces that the output's columns are cut into: a power of two."""
        return 1 << (self.split - 1).bit_length()

    @property
    def turns(self) -> int:
        """Most pieces that one share owns."""
        return -(-self.pieces // self.split)


def shared_memory(config: MosaicConfig, problem: Problem) -> int:
    """Bytes of a block's tiles: queries, keys and values, and the exchange."""
    c, p = config, problem
    rows = c.warpgroups * ROWS
    size = (rows + 2 * c.num_stages * c.block_k) * p.width * p.itemsize
    if c.split > 1:
        piece = rows * (p.width // c.pieces) * p.itemsize
        size += 4 * rows + (c.pieces + c.turns) * piece
    return size + 1024  # barriers, and the alignment of tiles


def unsuited(problem: Problem) -> str | None:
    """Why the kernel cannot take the problem; None where it can."""
    p = problem
    if p.dtype not in ("bfloat16", "float16"):
        return f"{p.dtype=}: it multiplies 16-bit numbers"
    if p.width not in (64, 128):
        return f"{p.width=}: heads are 64 or 128 wide"
    if p.queries % ROWS or p.keys % ROWS:
        return f"{p.queries=} {p.keys=}: both must be multiples of {ROWS}"
    if p.prompt % 8 or p.prompt > ROWS:
        return f"{p.prompt=}: it must be a multiple of 8 up to {ROWS}"
    return None


def search_space(problem: Problem, device: Device) -> tuple[MosaicConfig, ...]:
    """All configurations that fit, the likeliest first."""
    p = problem
    found = []
    for warpgroups in (2, 1):
        for block_k in (64, 128):
            if p.queries % (warpgroups * ROWS) or p.keys % block_k:
                continue
            for split in range(1, LARGEST_CLUSTER + 1):
                for stages in (2, 3, 4, 5):
                    config = MosaicConfig(block_k, split, stages, warpgroups)
                    narrow = p.width // config.pieces * p.itemsize < 32
                    room = shared_memory(config, p) <= SHARED_MEMORY
                    if room and not narrow and split <= p.frames:
                        found.append(config)

    def rank(config: MosaicConfig) -> tuple[float, int]:
        return _expected(config, p, device), -config.num_stages

    return tuple(sorted(found, key=rank))


def default_config(problem: Problem, device: Device) -> MosaicConfig:
    """The likeliest of the search space, not measured."""
    return search_space(problem, device)[0]


def _expected(config: MosaicConfig, problem: Problem, device: Device) -> float:
    """Time that a simple model expects, in keys that a block reads.

    Clusters do not cross the groups of at most 16 multiprocessors, some of which have
    fewer; 14 are counted on. Before its first and after its last tile a block is taken
    to need as long as for 600 keys, and for 700 more where shares meet; a tile of 64
    keys to be a tenth slower than one of 128. The numbers only have to put first what
    an H100 was seen to do best: it is a default, which a measurement replaces.
    """
    c, p = config, problem
    blocks = p.groups * (p.queries // (c.warpgroups * ROWS)) * p.heads * p.batch
    groups = device.cores // 16
    at_once = device.cores if c.split == 1 else max(1, groups * (14 // c.split))
    waves = -(-blocks // at_once)
    keys = -(-p.frames * p.keys // c.split) * (1.1 if c.block_k == 64 else 1.0)
    return waves * (keys + (1300 if c.split > 1 else 600))
