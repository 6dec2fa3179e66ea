"""A stream of our model in PyTorch: its frame cache, a pass, and a frame as bytes."""

from functools import partial
from typing import NamedTuple

import jax
import torch

from experiments.peers import torch_codec, torch_denoiser
from experiments.peers.torch_denoiser import Residual
from experiments.peers.torch_graph import compiled
from experiments.peers.torch_weights import Weights, on_torch
from mirage_jax.cache import EMPTY
from mirage_jax.config import DOWNSAMPLE, ModelConfig
from mirage_jax.transformer import DENSE, MODULATIONS, place_features, rope_angles


class Memory(NamedTuple):
    """What a stream remembers: K and V [L, M, K, E], ages [R + 2], ring slot [].

    As `mirage_jax.cache.FrameCache` of one stream.
    """

    k: torch.Tensor
    v: torch.Tensor
    age: torch.Tensor
    cursor: torch.Tensor

    def copy(self) -> "Memory":
        return Memory(*(part.clone() for part in self))

    def write(self, other: "Memory") -> None:
        """Takes over the other's numbers, in place."""
        for part, new in zip(self, other, strict=True):
            part.copy_(new)


def full_memory(
    config: ModelConfig, tokens: int, dtype: torch.dtype, device: str
) -> Memory:
    """Random K and V of a prompt and of a ring without an empty slot."""
    c = config.denoiser
    keys = c.prompt_tokens + (c.ring + 2) * tokens
    shape = (c.layers, keys, c.heads, c.width // c.heads)
    k, v = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
    age = torch.tensor([EMPTY, *(-i % (c.ring + 1) for i in range(c.ring + 1))])
    return Memory(k, v, age.to(device), torch.tensor(0, device=device))


def begin_frame(
    slot_bias: torch.Tensor,
    slot_of_key: torch.Tensor,
    table: torch.Tensor,
    shared: torch.Tensor,
    age: torch.Tensor,
    cursor: torch.Tensor,
    config: ModelConfig,
    tokens: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every slot grows older; what the layers are told of it.

    Args:
      slot_bias: [L, K, R + 3], columns prompt, anchor, then ages 0..R.
      slot_of_key: [M], which slot a key lies in: prompt, anchor, ring.
      table: [L, 6, D], each layer's own part of the modulation.
      shared: [6, D], that of all layers.
      age, cursor: of the memory; written.
      config: of the model.
      tokens: N of a frame.

    Returns:
      The mask [L, K, 1, M], the keys of the current frame [N], the modulations
      [L, 6, D].
    """
    c = config.denoiser
    slot = (cursor + 1) % (c.ring + 1)
    slots = torch.arange(len(age), device=age.device)
    older = torch.where(age == EMPTY, EMPTY, age + 1)
    older = torch.where(slots == slot + 1, 0, older)
    age.copy_(older)
    cursor.copy_(slot)
    first = c.prompt_tokens + (slot + 1) * tokens
    keys = first + torch.arange(tokens, device=age.device)
    columns = torch.cat([slots[:2], older[1:].clamp(min=0) + 2])
    anchored = older[:1] >= c.ring + 1
    seen = torch.cat([torch.ones_like(anchored), anchored, older[1:] != EMPTY])
    found = torch.where(seen, slot_bias[:, :, columns], -torch.inf)
    mask = found[:, :, None, slot_of_key].to(shared.dtype)
    return mask, keys, shared + table


class TorchStream:
    """One stream; every part of a frame is compiled for itself, a layer once for all.

    Args:
      config: sizes of the model.
      weights: of codec and denoiser, in the type that the stream computes in.
      memory: written by every pass.
      side: pixels along each side of a frame.
      mode: see `torch_graph.compiled`.

    Attributes:
      shared: modulation that all layers share [6, D], random at first.
      last: shift and scale of the last norm [2, D], random at first.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        memory: Memory,
        side: int,
        mode: str,
    ):
        c = self.config = config.denoiser
        self.model, self.memory, self.side = config, memory, side
        self._codec, self._denoiser = weights["codec"], weights["denoiser"]
        blocks = self._denoiser["blocks"]
        self._table = blocks["table"]
        self._layers = [_of_layer(blocks, index) for index in range(c.layers)]
        dtype, device = self._table.dtype, self._table.device
        self.dtype, self.device = dtype, device
        random = partial(torch.randn, dtype=dtype, device=device)
        self.shared = 0.3 * random(MODULATIONS, c.width)
        self.last = 0.3 * random(2, c.width)
        cells = side // (DOWNSAMPLE * c.patch)
        self.tokens = cells * cells
        angles = on_torch(rope_angles(cells, cells, c.width // c.heads))[:, None]
        self._cos, self._sin = angles.cos().to(device), angles.sin().to(device)
        self._place = on_torch(place_features(cells, cells)).to(device, dtype)
        sizes = torch.tensor([c.prompt_tokens] + [self.tokens] * (c.ring + 2))
        slots = torch.arange(c.ring + 3).repeat_interleave(sizes)
        self._slot_of_key = slots.to(device)
        compile_ = partial(compiled, mode=mode)
        self._encode = compile_(torch_codec.encode)
        self._decode = compile_(torch_codec.decode)
        self._begin = compile_(begin_frame)
        self._stem = compile_(torch_denoiser.stem)
        self._block = compile_(torch_denoiser.block)
        self._head = compile_(torch_denoiser.head)

    def denoise(
        self, noisy: torch.Tensor, source: torch.Tensor, biased: bool
    ) -> torch.Tensor:
        """One pass over a new frame, with its commit.

        Args:
          noisy, source: latents [h, w, C], float32.
          biased: False leaves the slot bias out, and empty slots are read.

        Returns:
          The predicted clean latent, float32.
        """
        weights, patch = self._denoiser, self.config.patch
        k, v, age, cursor = self.memory
        mask, keys, modulations = self._begin(
            weights["slot_bias"],
            self._slot_of_key,
            self._table,
            self.shared,
            age,
            cursor,
            self.model,
            self.tokens,
        )
        x = self._stem(weights["stem"], noisy, source, self._place, patch)
        residual = Residual(x, torch.zeros_like(x), torch.zeros_like(x[0]))
        for index, layer in enumerate(self._layers):
            residual = self._block(
                layer,
                residual,
                modulations[index],
                self._cos,
                self._sin,
                keys,
                k[index],
                v[index],
                mask[index] if biased else None,
            )
        predicted: torch.Tensor = self._head(
            weights["head"], residual, self.last, source, patch
        )
        return predicted

    def frame(self, source: torch.Tensor, biased: bool) -> torch.Tensor:
        """Source bytes [H, W, 3] to styled bytes, in one step from pure noise."""
        codec = self.model.codec
        latent = self._encode(self._codec, source, codec, self.dtype)
        noise = torch.randn_like(latent)
        styled = self.denoise(noise, latent, biased)
        picture: torch.Tensor = self._decode(self._codec, styled, codec, self.dtype)
        return picture


def _of_layer(blocks: Weights, index: int) -> Weights:
    """Views of one layer's weights, of those that all tokens go through."""
    read = {name: blocks[name] for name in (*DENSE, "q_scale", "k_scale")}
    layer: Weights = jax.tree.map(lambda x: x[index], read)
    return layer
