"""Our codec in PyTorch: the layers of `mirage_jax.codec`, channels last.

Functions of nested dicts of weights, as the original's: no name has to be translated.
Tensors are [1, C, H, W] by their shape and [1, H, W, C] in memory.
"""

from typing import Any

import torch
import torch.nn.functional as F

from mirage_jax.codec import LATENT_LIMIT
from mirage_jax.config import CodecConfig

Weights = dict[str, Any]


def space_to_depth(x: torch.Tensor, factor: int) -> torch.Tensor:
    """[1, C, H, W] to [1, factor^2 C, H / factor, W / factor]."""
    x = x.permute(0, 2, 3, 1)
    b, height, width, c = x.shape
    x = x.reshape(b, height // factor, factor, width // factor, factor, c)
    x = x.transpose(2, 3)
    x = x.reshape(b, height // factor, width // factor, factor * factor * c)
    return x.permute(0, 3, 1, 2)


def depth_to_space(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Inverse of `space_to_depth`."""
    x = x.permute(0, 2, 3, 1)
    b, height, width, c = x.shape
    c //= factor * factor
    x = x.reshape(b, height, width, factor, factor, c).transpose(2, 3)
    x = x.reshape(b, height * factor, width * factor, c)
    return x.permute(0, 3, 1, 2)


def convolve(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """A convolution that keeps height and width; its kernel is odd and [O, I, 3, 3]."""
    kernel = weights["kernel"]
    return F.conv2d(x, kernel, weights["bias"], padding=kernel.shape[-1] // 2)


def residual_block(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """x + conv(silu(conv(silu(x))))."""
    y = convolve(F.silu(x), weights["Conv_0"])
    return x + convolve(F.silu(y), weights["Conv_1"])


def encode(
    weights: Weights, source: torch.Tensor, config: CodecConfig, dtype: torch.dtype
) -> torch.Tensor:
    """Bytes [H, W, 3] to a latent [h, w, C], float32."""
    encoder, statistics = weights["encoder"], weights["statistics"]
    pixels = (source[None].permute(0, 3, 1, 2).float() / 255).to(dtype)
    x = space_to_depth(pixels * 2 - 1, 4)
    convolutions = blocks = 0
    for level, count in enumerate(config.encoder_blocks):
        if level:
            x = space_to_depth(x, 2)
        x = convolve(x, encoder[f"Conv_{convolutions}"])
        convolutions += 1
        for _ in range(count):
            x = residual_block(x, encoder[f"ResidualBlock_{blocks}"])
            blocks += 1
    z = convolve(F.silu(x), encoder[f"Conv_{convolutions}"]).float()
    z = LATENT_LIMIT * torch.tanh(z / LATENT_LIMIT)
    return (z[0].permute(1, 2, 0) - statistics["mean"]) / statistics["spread"]


def decode(
    weights: Weights, latent: torch.Tensor, config: CodecConfig, dtype: torch.dtype
) -> torch.Tensor:
    """A latent [h, w, C] to bytes [H, W, 3]."""
    decoder, statistics = weights["decoder"], weights["statistics"]
    z = latent * statistics["spread"] + statistics["mean"]
    x = convolve(z[None].permute(0, 3, 1, 2).to(dtype), decoder["Conv_0"])
    convolutions, blocks = 1, 0
    for level, count in enumerate(config.decoder_blocks):
        if level:
            x = depth_to_space(convolve(x, decoder[f"Conv_{convolutions}"]), 2)
            convolutions += 1
        for _ in range(count):
            x = residual_block(x, decoder[f"ResidualBlock_{blocks}"])
            blocks += 1
    x = depth_to_space(convolve(F.silu(x), decoder[f"Conv_{convolutions}"]), 2)
    picture = ((x.float() + 1) / 2).clamp(0, 1) * 255
    return picture.round().to(torch.uint8)[0].permute(1, 2, 0).contiguous()
