"""How much a training step does, and how much of the device's peak that is.

Model FLOPs are those of the denoiser's own products, forward once and backward twice
that, as in PaLM (Chowdhery et al. 2022): attention to the keys that a frame can see and
no others, and nothing for what is computed again (remat), for drawing the batch, the
teachers, the codec and the optimiser. All of those take time, so the use can only be
told too low.
"""

import dataclasses
from typing import Self

from jax.sharding import Mesh

from mirage_jax.chips import CHIPS, KINDS
from mirage_jax.config import DenoiserConfig, ModelConfig
from mirage_jax.cost_model import pass_stages
from mirage_jax.stream_config import StreamConfig

PASSES = 3  # a backward pass makes two products of every forward one


@dataclasses.dataclass(frozen=True)
class SampleWork:
    """One sample, forward and backward.

    Attributes:
      tokens: that go through the blocks.
      flops: multiplications and additions of the model's products.
    """

    tokens: int
    flops: int


def clip_work(model: ModelConfig, size: int, frames: int) -> SampleWork:
    """Of `denoiser.denoise_clip` on one clip of square frames with a side of `size`.

    Frame t sees the prompt, itself and at most `ring` frames before it.
    """
    c = model.denoiser
    stream = StreamConfig(height=size, width=size)
    tokens = c.frame_tokens(stream.grid)
    dense = sum(
        stage.flops for stage in pass_stages(model, stream) if stage.name != "attention"
    )
    attention = c.layers * attention_flops(c, tokens, frames)
    return SampleWork(frames * tokens, PASSES * (frames * dense + attention))


def attention_flops(config: DenoiserConfig, tokens: int, frames: int) -> int:
    """Of one layer's attention forward, in a clip of frames of so many tokens."""
    slots = sum(min(frame, config.ring) + 1 for frame in range(frames))
    keys = frames * config.prompt_tokens + slots * tokens
    return 4 * config.width * tokens * keys


@dataclasses.dataclass(frozen=True)
class StepWork:
    """Steps of all devices together.

    Attributes:
      samples: that they took.
      tokens: 0 where nobody counted.
      flops: of the model, 0 where nobody counted.
      peak: multiplications and additions a second in bfloat16 that all devices can do
        at most by their data sheet; 0 where it is not known.
    """

    samples: int = 0
    tokens: int = 0
    flops: int = 0
    peak: float = 0.0

    @classmethod
    def of(cls, mesh: Mesh, samples: int, one: SampleWork | None) -> Self:
        """One step on `mesh` with `samples` a device, each of the work `one`."""
        chip = CHIPS.get(KINDS.get(mesh.devices.flat[0].device_kind, ""))
        count = samples * mesh.size
        if one is None:
            return cls(count)
        peak = mesh.size * chip.rate("bfloat16") if chip else 0.0
        return cls(count, count * one.tokens, count * one.flops, peak)

    def __add__(self, other: "StepWork") -> "StepWork":
        return StepWork(
            self.samples + other.samples,
            self.tokens + other.tokens,
            self.flops + other.flops,
            max(self.peak, other.peak),
        )

    def speeds(self, seconds: float) -> dict[str, float]:
        """By metric, those that are known; `model_flop_use` is a share of the peak."""
        found = {}
        if self.samples:
            found["samples_per_s"] = self.samples / seconds
        if self.tokens:
            found["tokens_per_s"] = self.tokens / seconds
        if self.flops and self.peak:
            found["model_flop_use"] = self.flops / seconds / self.peak
        return found
