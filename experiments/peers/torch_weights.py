"""Weights of our model as PyTorch reads them, under the names that JAX has."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from mirage_jax.codec import init_codec
from mirage_jax.config import ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import FLOAT32

Weights = dict[str, Any]


def on_torch(x: Any) -> torch.Tensor:
    """An array of JAX or NumPy as a tensor on the CPU; bfloat16 becomes float32."""
    x = np.asarray(x)
    return torch.tensor(x if x.dtype.kind in "iub" else x.astype(np.float32))


def loaded(params: Weights, dtype: torch.dtype) -> Weights:
    """{"codec": ..., "denoiser": ...} as JAX has them, on the CPU."""
    make = lambda path, leaf: _laid_out(path, on_torch(leaf), dtype)  # noqa: E731
    return _of_leaves(make, params)


def drawn(config: ModelConfig, dtype: torch.dtype, device: str) -> Weights:
    """Random ones of the same spread as `experiments.random_model` draws."""

    def draw(path: list[str], leaf: Any) -> torch.Tensor:
        normal = torch.randn(leaf.shape, device=device, dtype=dtype)
        if path[-1] == "kernel":
            inputs = leaf.shape["blocks" in path : -1]
            normal *= math.prod(inputs) ** -0.5
        elif path[-1] in ("q_scale", "k_scale", "spread"):
            normal = 1 + 0.1 * normal
        else:
            normal *= 0.3
        return _laid_out(path, normal, dtype)

    key = jax.random.key(0)
    codec = jax.eval_shape(lambda: init_codec(key, config.codec))
    denoiser = jax.eval_shape(lambda: init_denoiser(key, config))
    return _of_leaves(draw, {"codec": codec, "denoiser": denoiser})


def widened(weights: Weights) -> Weights:
    """The same numbers in float32."""
    return _of_leaves(lambda _, leaf: leaf.float(), weights)


def count(weights: Weights) -> int:
    """Parameters, with the two statistics of every latent channel."""
    return sum(leaf.numel() for leaf in jax.tree.leaves(weights))


def _of_leaves(
    make: Callable[[list[str], Any], torch.Tensor], tree: Weights
) -> Weights:
    """A tree of the same names, each leaf made from its path and the old one."""

    def one(path: Any, leaf: Any) -> torch.Tensor:
        return make([entry.key for entry in path], leaf)

    made: Weights = jax.tree_util.tree_map_with_path(one, tree)
    return made


def _laid_out(path: list[str], x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In its type; the kernel of a convolution [3, 3, I, O] as [O, I, 3, 3].

    In memory that is channels last.
    """
    x = x.to(torch.float32 if path[-1] in FLOAT32 else dtype)
    if path[-1] == "kernel" and x.ndim == 4:
        return x.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return x
