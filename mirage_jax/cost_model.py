"""What one pass of the denoiser must do at least, counted from its configuration.

Nothing here is measured. Bytes are those that have to come from or go to the device's
memory in every pass: weights, which no cache holds between passes, and K and V of the
frame cache. Activations of a frame stay on the chip.
"""

import dataclasses
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from mirage_jax.config import ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.stream import StreamConfig
from mirage_jax.transformer import DENSE

STAGES = (
    "stem",
    "conditioning",
    "norms",
    *DENSE,
    "commit",
    "attention",
    "head",
    "prompt",  # outside of the pass: its K and V wait in their slot
)
EIGHT_BIT_SPEED = 2  # operations of 8-bit matrix units for one of bfloat16's


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a pass, summed over all layers.

    Attributes:
      name: one of `STAGES`.
      parameters: numbers that were learnt, as many as in any precision.
      weight_bytes: of them, read once a pass.
      cache_bytes: of K and V, read or written once a pass.
      flops: multiplications and additions of matrix products.
      eight_bit: whether the products are those of 8-bit matrix units.
    """

    name: str
    parameters: int = 0
    weight_bytes: int = 0
    cache_bytes: int = 0
    flops: int = 0
    eight_bit: bool = False

    @property
    def bytes_moved(self) -> int:
        return self.weight_bytes + self.cache_bytes

    def seconds(self, bandwidth: float, rate: float) -> float:
        """The larger of bytes over bandwidth and flops over the rate of bfloat16."""
        rate *= EIGHT_BIT_SPEED if self.eight_bit else 1
        return max(self.bytes_moved / bandwidth, self.flops / rate)


def frame_tokens(model: ModelConfig, stream: StreamConfig) -> int:
    """N, tokens of a frame."""
    return math.prod(stream.grid) // model.denoiser.patch**2


def count_parameters(model: ModelConfig) -> int:
    """Parameters of the denoiser."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_shapes(model)))


def pass_stages(
    model: ModelConfig, stream: StreamConfig, frames: int = 1
) -> tuple[Stage, ...]:
    """Every stage of one pass with a full ring.

    Args:
      model: sizes of codec and denoiser; the codec's work is not in a pass.
      stream: frame size, batch and types.
      frames: G of the pass: 2 in the first one of a lagged commit.
    """
    c = model.denoiser
    itemsize = jnp.dtype(stream.dtype).itemsize
    tokens, streams = frame_tokens(model, stream), stream.batch
    rows = streams * frames * tokens
    keys = c.prompt_tokens + (c.ring + 1 + stream.anchor) * tokens
    found = {name: Stage(name) for name in STAGES}

    def add(name: str, **more: int) -> None:
        stage = found[name]
        sums = {field: getattr(stage, field) + value for field, value in more.items()}
        found[name] = dataclasses.replace(stage, **sums)

    for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes(model)):
        names = [entry.key for entry in path]
        stage, uses = _stage_and_uses(names, leaf.ndim, rows, streams * frames, c.patch)
        size = math.prod(leaf.shape)
        eight_bit = stage in DENSE and stream.eight_bit is not None
        matrix = names[-1] == "kernel"
        width = 1 if eight_bit and matrix else itemsize
        read = 0 if stage == "prompt" else size * width
        if eight_bit and matrix:
            read += 4 * leaf.shape[0] * leaf.shape[-1]  # a float32 scale per output
        add(
            stage,
            parameters=size,
            weight_bytes=read,
            flops=2 * size * uses if matrix else 0,
        )
    # K and V, of every layer.
    row = 2 * c.width * itemsize
    add("commit", cache_bytes=c.layers * rows * row)
    add(
        "attention",
        cache_bytes=c.layers * streams * keys * row,
        flops=4 * c.layers * rows * keys * c.width,
    )
    if stream.eight_bit is not None:
        for name in DENSE:
            found[name] = dataclasses.replace(found[name], eight_bit=True)
    return tuple(found.values())


def floor_seconds(stages: Iterable[Stage], bandwidth: float, rate: float) -> float:
    """Least time of stages that follow one another.

    Args:
      stages: of `pass_stages`.
      bandwidth: of the device's memory, bytes a second.
      rate: of matrix products in bfloat16, operations a second; 8 bits count double.
    """
    return sum(stage.seconds(bandwidth, rate) for stage in stages)


def _shapes(model: ModelConfig) -> dict:
    return jax.eval_shape(lambda: init_denoiser(jax.random.key(0), model))


def _stage_and_uses(
    names: list[str], ndim: int, rows: int, frames: int, patch: int
) -> tuple[str, int]:
    """Stage of a parameter, and how many rows meet it in a pass."""
    top = names[0]
    if top == "blocks":
        if names[1] in DENSE:
            return names[1], rows
        if names[1] == "prompt":
            return "prompt", 0
        return ("norms" if names[1] == "table" else "commit"), 0
    if top == "slot_bias":
        return "attention", 0
    if top == "conditioning":
        return top, frames
    if top == "head" and ndim == 4:
        return top, rows * patch**2  # convolutions on the latent grid
    return top, (0 if top == "prompt" else rows)
