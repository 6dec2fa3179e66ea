"""Our denoiser in PyTorch: the layers of `mirage_jax.transformer`, for one stream.

Functions of nested dicts of weights, as the original's. Norms, rotations and softmax
are float32, all else is what the weights are; a frame's K and V are written into its
slots by index, and attention reads all slots in place.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from experiments.peers.torch_codec import convolve
from pallas_kernels.modulated_norm.reference import EPSILON

Weights = dict[str, Any]


class Residual(NamedTuple):
    """The residual stream [N, D], its last addend [N, D] and the gate on it [D].

    They are added where the sum is normalised, so that one kernel can do both.
    """

    x: torch.Tensor
    branch: torch.Tensor
    gate: torch.Tensor


def unit(x: torch.Tensor) -> torch.Tensor:
    """x / rms(x), float32."""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)


def gated_residual_norm(
    residual: Residual, scale: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum [N, D], and its norm with scale and shift [D]."""
    x, branch, gate = residual
    total = (x.float() + branch.float() * gate.float()).to(x.dtype)
    y = unit(total) * (1 + scale.float()) + shift.float()
    return total, y.to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [N, K, E] by angles [N, 1, E / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def linear(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """X @ kernel + bias."""
    return torch.addmm(weights["bias"], x, weights["kernel"])


def patchify(x: torch.Tensor, patch: int) -> torch.Tensor:
    """Latent cells [h, w, C] to tokens [N, patch^2 C], row by row."""
    h, w, c = x.shape
    x = x.reshape(h // patch, patch, w // patch, patch, c).transpose(1, 2)
    return x.reshape((h // patch) * (w // patch), patch * patch * c)


def unpatchify(x: torch.Tensor, height: int, width: int, patch: int) -> torch.Tensor:
    """Inverse of `patchify`."""
    c = x.shape[-1] // (patch * patch)
    x = x.reshape(height // patch, width // patch, patch, patch, c).transpose(1, 2)
    return x.reshape(height, width, c)


def stem(
    weights: Weights,
    noisy: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    patch: int,
) -> torch.Tensor:
    """Noisy latent and source latent [h, w, C] to tokens [N, D]."""
    dense = weights["Dense_0"]
    both = torch.cat([noisy, source], dim=-1).to(dense["kernel"].dtype)
    return linear(patchify(both, patch), dense) + place @ weights["place"]["kernel"]


def block(
    weights: Weights,
    residual: Residual,
    modulation: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    k_slots: torch.Tensor,
    v_slots: torch.Tensor,
    mask: torch.Tensor | None,
) -> Residual:
    """Attention and MLP of one layer.

    Args:
      weights: of this layer.
      residual: what comes in.
      modulation: [6, D], shift, scale and gate of attention and MLP.
      cos, sin: of the angles, [N, 1, E / 2].
      keys: where the frame's K and V are kept, int64 [N].
      k_slots, v_slots: of all slots, [M, K, E]; written.
      mask: added to the logits, [K, 1, M]; None leaves the slot bias out.
    """
    m = modulation
    x, y = gated_residual_norm(residual, m[1], m[0])
    qkv = (y @ weights["qkv"]["kernel"]).unflatten(-1, (3, *k_slots.shape[1:]))
    q = rotate(unit(qkv[:, 0]) * weights["q_scale"], cos, sin).to(y.dtype)
    k = rotate(unit(qkv[:, 1]) * weights["k_scale"], cos, sin).to(y.dtype)
    k_slots.index_copy_(0, keys, k)
    v_slots.index_copy_(0, keys, qkv[:, 2])
    q, k, v = (part.transpose(0, 1)[None] for part in (q, k_slots, v_slots))
    mask = None if mask is None else mask[None]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    branch = linear(y[0].transpose(0, 1).flatten(1), weights["out"])
    x, y = gated_residual_norm(Residual(x, branch, m[2]), m[4], m[3])
    hidden = F.gelu(linear(y, weights["up"]), approximate="tanh")
    return Residual(x, linear(hidden, weights["down"]), m[5])


def head(
    weights: Weights,
    residual: Residual,
    modulation: torch.Tensor,
    source: torch.Tensor,
    patch: int,
) -> torch.Tensor:
    """Tokens and source latent [h, w, C] to the predicted clean latent, float32."""
    height, width = source.shape[:2]
    _, y = gated_residual_norm(residual, modulation[1], modulation[0])
    coarse, local = (
        unpatchify(linear(y, weights[name]), height, width, patch)
        for name in ("Dense_0", "Dense_1")
    )
    z = torch.cat([coarse, local, source.to(y.dtype)], dim=-1)
    z = convolve(z[None].permute(0, 3, 1, 2), weights["Conv_0"])
    z = z + convolve(F.silu(z), weights["Conv_1"])
    z = convolve(F.silu(z), weights["Conv_2"])
    return coarse.float() + z[0].permute(1, 2, 0).float()
