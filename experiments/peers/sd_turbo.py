"""A U-Net of SD-Turbo's size between the halves of a tiny autoencoder, by diffusers.

One step from picture to picture, as SD-Turbo is used for live video: encode, add noise,
one pass of the U-Net, decode. It has no memory of past frames. The sizes are those of
Stable Diffusion 2.1 (stabilityai/stable-diffusion-2-1-base, unet/config.json), which
SD-Turbo has too: 865,910,724 parameters. Weights are random, no file is read.
"""

import dataclasses
import time
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from experiments.peers.clock import time_calls
from experiments.peers.rivals import Found, Settings
from experiments.peers.torch_graph import compiled, prepare, recorded, versions, wait

PROMPT_TOKENS = 77  # of CLIP's text encoder
TIME = 499  # of 1000; what is computed is the same at any
ALPHA = 0.28  # about alpha-bar of its schedule there: the share of the data's variance

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),  # heads of 64 channels, whatever its name
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "norm_num_groups": 32,
    "act_fn": "silu",
}
# Made to be traced quickly: for tests of the script.
TOY_UNET = UNET | {
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "attention_head_dim": (1, 1, 2, 2),
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
}
TOY_AUTOENCODER: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "num_encoder_blocks": (1, 1, 1, 1),
    "num_decoder_blocks": (1, 1, 1, 1),
}


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Networks and what stays the same from frame to frame.

    Attributes:
      unet, autoencoder: in `dtype`, channels last.
      prompt: [1, 77, cross_attention_dim].
      moment: the time of the step, int64 [1].
      dtype: compute type.
    """

    unet: Any
    autoencoder: Any
    prompt: torch.Tensor
    moment: torch.Tensor
    dtype: torch.dtype

    def encode(self, source: torch.Tensor) -> torch.Tensor:
        """Bytes [H, W, 3] to a latent [1, 4, H / 8, W / 8]."""
        pixels = source[None].permute(0, 3, 1, 2).to(self.dtype) / 127.5 - 1
        latent: torch.Tensor = self.autoencoder.encoder(pixels)
        return latent

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """A latent to bytes."""
        pixels = self.autoencoder.decoder(latent)
        picture = ((pixels.float() + 1) / 2).clamp(0, 1) * 255
        return picture.round().to(torch.uint8)[0].permute(1, 2, 0).contiguous()

    def denoise(self, latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The source's latent to that of the styled frame."""
        noisy = ALPHA**0.5 * latent + (1 - ALPHA) ** 0.5 * noise
        found = self.unet(noisy, self.moment, self.prompt, return_dict=False)[0]
        clean: torch.Tensor = (noisy - (1 - ALPHA) ** 0.5 * found) / ALPHA**0.5
        return clean

    @property
    def parameters(self) -> int:
        modules = (self.unet, self.autoencoder)
        return sum(part.numel() for one in modules for part in one.parameters())


def pipeline(on_gpu: bool, device: str) -> Pipeline:
    """Random weights, drawn on the device; a toy without a GPU."""
    dtype = torch.float16 if on_gpu else torch.float32
    sizes = UNET if on_gpu else TOY_UNET
    diffusers.utils.logging.set_verbosity_error()  # it warns of nothing in particular
    with torch.device(device):
        unet = UNet2DConditionModel(**sizes)
        autoencoder = AutoencoderTiny(**({} if on_gpu else TOY_AUTOENCODER))
        prompt = torch.randn(1, PROMPT_TOKENS, sizes["cross_attention_dim"])
        moment = torch.full((1,), TIME)
    unet, autoencoder = (
        network.eval().to(dtype=dtype, memory_format=torch.channels_last)
        for network in (unet, autoencoder)
    )
    return Pipeline(unet, autoencoder, prompt.to(dtype), moment, dtype)


def measure(name: str, settings: Settings) -> Found:
    """Times frames, and the autoencoder alone."""
    begin = time.perf_counter()
    device = prepare(settings.on_gpu)
    pipe = pipeline(settings.on_gpu, device)
    side = settings.side
    source = torch.randint(256, (side, side, 3), dtype=torch.uint8, device=device)
    encode, denoise, decode = (
        compiled(function, settings.compile)
        for function in (pipe.encode, pipe.denoise, pipe.decode)
    )

    def whole() -> torch.Tensor:
        latent = encode(source)
        picture: torch.Tensor = decode(denoise(latent, torch.randn_like(latent)))
        return picture

    frame = recorded(whole)
    wait(frame())
    seconds = time.perf_counter() - begin
    codec = recorded(lambda: decode(encode(source)))
    setup = versions() | {
        "diffusers": diffusers.__version__,
        "compile": settings.compile,
        "precision": str(pipe.dtype).removeprefix("torch."),
    }
    times = {
        name: time_calls(frame, wait, settings.frames),
        f"{name}_codec": time_calls(codec, wait, settings.frames),
    }
    return Found(times, pipe.parameters, seconds, setup)
