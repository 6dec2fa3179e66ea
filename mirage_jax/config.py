"""Frozen configurations of the model, with the named sizes.

Letters used in shapes all over the library: B streams, T frames, H W pixels,
h w latent grid, C latent channels, N tokens a frame, D width, S slots, K heads,
E head width, L layers, P prompt tokens, G frames that one pass carries.
"""

import dataclasses

from mirage_jax.errors import MirageError

DOWNSAMPLE = 16  # pixels per latent cell, along each side
SIDE_MULTIPLE = 2 * DOWNSAMPLE  # pixels: a frame holds whole tokens of 2x2 cells
TEXT_WIDTH = 384  # width of a sentence embedding


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Per-frame autoencoder: 16x down, no memory.

    Attributes:
      channels: latent channels C.
      encoder_widths: channels at 1/4, 1/8 and 1/16 of the picture's side.
      encoder_blocks: residual blocks at each of them.
      decoder_widths: channels at 1/16, 1/8, 1/4 and 1/2.
      decoder_blocks: residual blocks at each of them.
    """

    channels: int = 32
    encoder_widths: tuple[int, int, int] = (64, 96, 160)
    encoder_blocks: tuple[int, int, int] = (2, 2, 3)
    decoder_widths: tuple[int, int, int, int] = (160, 128, 80, 40)
    decoder_blocks: tuple[int, int, int, int] = (3, 2, 2, 1)


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Temporal diffusion transformer.

    Attributes:
      width: D, a multiple of `heads`.
      layers: L.
      heads: K; the head width E is D / K and a multiple of 4 (2-D RoPE).
      patch: latent cells per token along each side.
      prompt_tokens: P, keys that a prompt takes in every layer.
      prompt_width: width of the prompt tokens before each layer's projection.
      prompt_hidden: width between the sentence embedding and the choice of codes.
      prompt_codes: learnt looks that a prompt chooses among and mixes.
      refine_width: channels of the convolutions at the end, a multiple of 4.
      ring: past frames that the ring remembers beside the current one.
      stand_in: where a source is missing, the last frame that had one takes its place,
        as it was styled; else nothing does.
      noise_offset: share of the noise's spread that all cells of a frame have in
        common, channel by channel, in [0, 1).
    """

    width: int = 384
    layers: int = 9
    heads: int = 6
    patch: int = 2
    prompt_tokens: int = 8
    prompt_width: int = 128
    prompt_hidden: int = 256
    prompt_codes: int = 64
    refine_width: int = 128
    ring: int = 7
    stand_in: bool = False
    noise_offset: float = 0.0

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads or self.head_width % 4:
            raise ValueError(
                f"{self.width=} over {self.heads=} must give a head width that is a "
                "multiple of 4"
            )
        if self.refine_width < 4 or self.refine_width % 4:
            raise ValueError(f"{self.refine_width=} must be a multiple of 4 from 4 on")
        if not 0 <= self.noise_offset < 1:
            raise ValueError(f"{self.noise_offset=} must be 0 or more and below 1")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def frame_tokens(self, grid: tuple[int, int]) -> int:
        """N, tokens of a frame with a latent grid (h, w)."""
        return (grid[0] // self.patch) * (grid[1] // self.patch)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Codec and denoiser that belong together."""

    codec: CodecConfig = CodecConfig()
    denoiser: DenoiserConfig = DenoiserConfig()


MODELS: dict[str, ModelConfig] = {
    # Small enough for tests on two CPU cores.
    "test": ModelConfig(
        CodecConfig(8, (8, 8, 16), (1, 1, 1), (16, 8, 8, 8), (1, 1, 1, 1)),
        DenoiserConfig(
            width=32,
            layers=2,
            heads=2,
            prompt_tokens=4,
            prompt_width=16,
            prompt_hidden=32,
            prompt_codes=8,
            refine_width=8,
            ring=3,
        ),
    ),
    # 19.0 M parameters: the shipped weights.
    "default": ModelConfig(),
    # About 130 M parameters.
    "base": ModelConfig(
        denoiser=DenoiserConfig(
            width=768, layers=18, heads=12, prompt_tokens=16, refine_width=192
        )
    ),
    # About 880 M parameters: the size of MirageLSD's class.
    "lsd_880m": ModelConfig(
        denoiser=DenoiserConfig(
            width=1536, layers=30, heads=12, prompt_tokens=32, refine_width=256
        )
    ),
}


def model_config(name: str) -> ModelConfig:
    """Returns the named size; raises `MirageError` for an unknown name."""
    if name not in MODELS:
        raise MirageError(f"no model size {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name]
