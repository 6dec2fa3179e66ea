"""How a stream runs: the frozen configuration that every step is compiled for."""

import dataclasses

from mirage_jax import flow
from mirage_jax.config import DOWNSAMPLE, SIDE_MULTIPLE
from mirage_jax.errors import MirageError
from mirage_jax.ranges import check_choices
from pallas_kernels import frame_attention
from pallas_kernels.eight_bit import LARGEST

COMMITS = ("merged", "lagged", "clean")
DTYPES = ("bfloat16", "float32")
ATTENTIONS = (None, *frame_attention.backends())
KERNELS = (None, "xla", "triton")
LINEARS = (None, "xla", "triton", "mosaic")
EIGHT_BITS = (None, *LARGEST)


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How a stream runs; every field is static.

    Attributes:
      height, width: frame size in pixels, multiples of 32.
      steps: denoiser passes a frame, 1, 2 or 4.
      commit: what the cache keeps of a frame. "merged": K and V of the last pass,
        at no cost. "lagged": the next frame's first pass carries the finished frame
        along and keeps its clean K and V. "clean": a pass of its own.
      batch: streams that run together.
      anchor: keep the stream's first frame in the anchor slot.
      memory: False empties the cache before every frame, to measure its use.
      monitor: notice when a stream goes wrong (`mirage_jax.monitor`): it then forgets
        all but its prompt and fades in anew.
      fixed_noise: one noise for all frames of a stream, so that what stands still
        stays; a new one each frame without it.
      hold: frames without a source during which the last source is repeated.
      dtype: compute type, "bfloat16" or "float32".
      attention: attention backend by name; here and below None chooses by
        measurement.
      kernels: backend of the other kernels, the norms and the commit, by name.
      eight_bit: "int8" or "float8_e4m3fn" runs most of the blocks' dense layers in 8
        bits; weights must then come from `device_weights`. None leaves all to `dtype`.
      linear: backend of the blocks' dense layers by name; "triton" has 8 bits alone.
      unroll: layers unrolled into the program, or a loop, which compiles sooner. None
        leaves it to `frame_compiler`; other programs are then unrolled.
    """

    height: int = 512
    width: int = 512
    steps: int = 1
    commit: str = "merged"
    batch: int = 1
    anchor: bool = False
    memory: bool = True
    monitor: bool = False
    fixed_noise: bool = True
    hold: int = 8
    dtype: str = "bfloat16"
    attention: str | None = None
    kernels: str | None = None
    eight_bit: str | None = None
    linear: str | None = None
    unroll: bool | None = None

    def __post_init__(self):
        whole = [
            SIDE_MULTIPLE * max(1, round(side / SIDE_MULTIPLE))
            for side in (self.height, self.width)
        ]
        if whole != [self.height, self.width]:
            raise MirageError(
                f"frame size {self.height}x{self.width} is no multiple of "
                f"{SIDE_MULTIPLE}: take for example {whole[0]}x{whole[1]}"
            )
        check_choices(self, steps=flow.STEP_COUNTS, commit=COMMITS, dtype=DTYPES)
        check_choices(self, attention=ATTENTIONS, kernels=KERNELS)
        check_choices(self, eight_bit=EIGHT_BITS, linear=LINEARS)
        if self.batch < 1 or self.hold < 0:
            raise MirageError(
                f"batch={self.batch} hold={self.hold}: a batch has at least one "
                "stream, and a source is held for 0 or more frames"
            )
        if self.linear == "triton" and self.eight_bit is None:
            raise MirageError(
                "linear='triton' needs 8 bits: set eight_bit to one of "
                f"{EIGHT_BITS[1:]}, or take linear='xla'"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Latent grid (h, w)."""
        return self.height // DOWNSAMPLE, self.width // DOWNSAMPLE

    @property
    def unrolled(self) -> bool:
        """Whether layers are unrolled, as they are where nobody chose a loop."""
        return self.unroll is not False
