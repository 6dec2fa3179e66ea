"""What one pass of the denoiser must do at least, counted from its configuration.

Nothing here is measured. Bytes are those that have to come from or go to the device's
memory: weights, which no cache holds between passes, K and V of the frame cache, and
what one layer hands to the next where that is larger than the chip's L2 cache. All
else can stay on the chip and counts nothing. Work is that of matrix products and
convolutions; a product with the padding around a picture is none.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from mirage_jax.chips import Chip
from mirage_jax.config import ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import device_weights
from mirage_jax.stream_config import StreamConfig
from mirage_jax.transformer import DENSE, EIGHT_BIT

MATRICES = ("kernel", "values")  # parameters that are multiplied with
STAGES = (
    "stem",
    "norms",
    *DENSE,
    "commit",
    "attention",
    "head",
    "conditioning",
    "prompt",
)
# Outside of the frame: what they give waits in the state of the stream.
OPENING = ("conditioning", "prompt")
# What a block does after its commit: nobody reads it of the last layer of a pass that
# only commits.
AFTER_COMMIT = ("attention", "out", "up", "down")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a frame, summed over all layers.

    Attributes:
      name: one of `STAGES`, "encode" or "decode".
      precision: of its products, as a chip's rates are named.
      parameters: numbers that were learnt, as many as in any precision.
      weight_bytes: of them, read once a pass.
      cache_bytes: of K and V, read or written once a pass.
      frame_bytes: of pictures and latents that enter or leave a frame's program.
      handed_on: bytes of each array that a layer hands to the next one.
      flops: multiplications and additions.
    """

    name: str
    precision: str
    parameters: int = 0
    weight_bytes: int = 0
    cache_bytes: int = 0
    frame_bytes: int = 0
    handed_on: tuple[int, ...] = ()
    flops: int = 0

    def bytes_moved(self, chip: Chip) -> int:
        """From and to memory; an array that L2 cannot hold is written and read."""
        spilt = sum(size for size in self.handed_on if size > chip.l2)
        return self.weight_bytes + self.cache_bytes + self.frame_bytes + 2 * spilt

    def memory_seconds(self, chip: Chip) -> float:
        """Least time that the bytes take."""
        return self.bytes_moved(chip) / chip.bandwidth

    def compute_seconds(self, chip: Chip) -> float:
        """Least time that the products take.

        Raises:
          MirageError: the chip lacks the precision.
        """
        return self.flops / chip.rate(self.precision)

    def seconds(self, chip: Chip) -> float:
        """The larger of the two: the roofline (Williams et al. 2009)."""
        return max(self.memory_seconds(chip), self.compute_seconds(chip))


def count_parameters(model: ModelConfig) -> int:
    """Parameters of the denoiser."""
    shapes = jax.eval_shape(lambda: _fresh(model))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def convolution_flops(kernel: Iterable[int], grid: tuple[int, int]) -> int:
    """Work of a convolution that keeps the size of its picture.

    Args:
      kernel: height, width (both odd), inputs and outputs.
      grid: height and width of the picture; what lies outside costs nothing.
    """
    *sides, inputs, outputs = kernel
    taps = [
        side * length - (side // 2) * (side // 2 + 1)
        for side, length in zip(sides, grid, strict=True)
    ]
    return 2 * inputs * outputs * math.prod(taps)


@functools.cache  # tables ask for the same few again and again
def pass_stages(
    model: ModelConfig, stream: StreamConfig, frames: int = 1, predicts: bool = True
) -> tuple[Stage, ...]:
    """Every stage of one pass with a full ring.

    Args:
      model: sizes of codec and denoiser; the codec's work is not in a pass.
      stream: frame size, batch and types.
      frames: G of the pass: 2 in the first one of a lagged commit.
      predicts: False where only K and V are wanted, in the pass of a clean commit:
        the head and the rest of the last layer are then not run.
    """
    c = model.denoiser
    itemsize = jnp.dtype(stream.dtype).itemsize
    tokens, streams = c.frame_tokens(stream.grid), stream.batch
    rows = streams * frames * tokens
    keys = c.prompt_tokens + (c.ring + 1 + stream.anchor) * tokens
    dense = stream.eight_bit or stream.dtype
    found = {
        name: Stage(name, dense if name in EIGHT_BIT else stream.dtype)
        for name in STAGES
    }

    def add(name: str, **more: int | tuple[int, ...]) -> None:
        stage = found[name]
        sums = {field: getattr(stage, field) + value for field, value in more.items()}
        found[name] = dataclasses.replace(stage, **sums)

    held = jax.eval_shape(lambda: device_weights(_fresh(model), stream))["denoiser"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(held):
        names = [entry.key for entry in path]
        stage, uses = _stage_and_uses(names, rows)
        size = math.prod(leaf.shape)
        if names[-1] != "scale":  # those of 8-bit weights were not learnt
            add(stage, parameters=size)
        if stage in OPENING or (stage == "head" and not predicts):
            continue
        layers = 1
        if names[0] in ("blocks", "slot_bias"):  # stacked by layer
            layers = c.layers - (stage in AFTER_COMMIT and not predicts)
            size = size // c.layers * layers
        add(stage, weight_bytes=size * leaf.dtype.itemsize)
        if names[-1] not in MATRICES:
            continue
        outputs = leaf.shape[-2 if names[-1] == "values" else -1]
        if len(leaf.shape) == 4:  # a convolution on the latent grid
            flops = streams * frames * convolution_flops(leaf.shape, stream.grid)
            results = rows * c.patch**2 * outputs
        else:
            flops, results = 2 * size * uses, uses * outputs
        add(stage, flops=flops, handed_on=(results * itemsize,) * layers)

    attending = c.layers if predicts else c.layers - 1
    row = c.width * itemsize
    # Two norms a layer, each of which hands on the sum and its norm.
    normed = rows * c.width * (itemsize if stream.eight_bit is None else 1)
    add("norms", handed_on=(rows * row, normed) * (c.layers + attending))
    # K and V, of every layer.
    add("commit", cache_bytes=2 * c.layers * rows * row)
    add(
        "attention",
        cache_bytes=2 * attending * streams * keys * row,
        flops=4 * attending * rows * keys * c.width,
        handed_on=(rows * row,) * attending,
    )
    return tuple(found.values())


def floor_seconds(stages: Iterable[Stage], chip: Chip) -> float:
    """Least time of stages that follow one another.

    Raises:
      MirageError: the chip lacks a precision of theirs.
    """
    return sum(stage.seconds(chip) for stage in stages)


def _fresh(model: ModelConfig) -> dict:
    return {"denoiser": init_denoiser(jax.random.key(0), model)}


def _stage_and_uses(names: list[str], rows: int) -> tuple[str, int]:
    """Stage of a parameter, and how many rows a dense layer of it multiplies."""
    top = names[0]
    if top == "blocks":
        if names[1] in DENSE:
            return names[1], rows
        if names[1] == "prompt":
            return "prompt", 0
        return ("norms" if names[1] == "table" else "commit"), 0
    if top == "slot_bias":
        return "attention", 0
    return top, (0 if top in OPENING else rows)
