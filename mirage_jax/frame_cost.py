"""What a whole frame must do at least: encode, the denoiser's passes, decode."""

import dataclasses

from mirage_jax.chips import Chip
from mirage_jax.codec_cost import codec_stages
from mirage_jax.config import ModelConfig
from mirage_jax.cost_model import Stage, floor_seconds, pass_stages
from mirage_jax.stream_config import StreamConfig

PARTS = ("encode", "lagged_pass", "pass", "clean_pass", "decode")


@dataclasses.dataclass(frozen=True)
class Part:
    """Stages of a frame that follow one another.

    Attributes:
      name: one of `PARTS`. "lagged_pass" carries the frame before along, "clean_pass"
        only writes K and V; a merged commit is in "pass" and costs nothing more.
      times: how often a frame runs it.
      stages: of one run.
    """

    name: str
    times: int
    stages: tuple[Stage, ...]

    def floor_ms(self, chip: Chip) -> float:
        """Least milliseconds of one run."""
        return 1e3 * floor_seconds(self.stages, chip)


def frame_parts(model: ModelConfig, stream: StreamConfig) -> tuple[Part, ...]:
    """The parts that a frame of this stream has, in order."""
    encode, decode = codec_stages(model, stream)
    lagged, clean = stream.commit == "lagged", stream.commit == "clean"
    parts = (
        Part("encode", 1, (encode,)),
        Part("lagged_pass", int(lagged), pass_stages(model, stream, frames=2)),
        Part("pass", stream.steps - lagged, pass_stages(model, stream)),
        Part("clean_pass", int(clean), pass_stages(model, stream, predicts=False)),
        Part("decode", 1, (decode,)),
    )
    return tuple(part for part in parts if part.times)


def frame_floor_ms(parts: tuple[Part, ...], chip: Chip) -> float:
    """Least milliseconds of a frame: its parts one after another."""
    return sum(part.times * part.floor_ms(chip) for part in parts)
