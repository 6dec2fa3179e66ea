"""Random weights of any size: for timing only, pictures made with them mean nothing.

A fresh denoiser gates every block shut and predicts zeros, so that a comparison of two
backends would compare nothing: these weights are drawn so that every layer speaks. They
are drawn in the type that they are used in, on the device: 880M parameters are 1.8 GB
of bfloat16, and no float32 copy of them is ever made.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mirage_jax.codec import init_codec
from mirage_jax.config import ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import FLOAT32

Params = dict[str, Any]
FEW = 2**16
"""Arrays of so few numbers come out of one draw: each draw takes long to compile."""


@partial(jax.jit, static_argnums=(1, 2))
def random_params(key: Array, model: ModelConfig, dtype: str) -> Params:
    """{"codec": ..., "denoiser": ...}, on the device as a stream holds them.

    Kernels have unit gain, scales lie around 1, all else is small. What a stream reads
    in float32 is float32, the rest `dtype`.
    """
    shapes = jax.eval_shape(
        lambda: {
            "codec": init_codec(jax.random.key(0), model.codec),
            "denoiser": init_denoiser(jax.random.key(0), model),
        }
    )
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    few_key, *keys = jax.random.split(key, 1 + len(leaves))
    few = sum(leaf.size for _, leaf in leaves if leaf.size <= FEW)
    pool = jax.random.normal(few_key, (few,))
    drawn, taken = [], 0
    for one_key, (path, leaf) in zip(keys, leaves, strict=True):
        names = [entry.key for entry in path]
        kind = jnp.float32 if names[-1] in FLOAT32 else jnp.dtype(dtype)
        if leaf.size <= FEW:
            normal = pool[taken : taken + leaf.size].reshape(leaf.shape).astype(kind)
            taken += leaf.size
        else:
            normal = jax.random.normal(one_key, leaf.shape, kind)
        drawn.append(_scaled(normal, names))
    return jax.tree_util.tree_unflatten(tree, drawn)


def _scaled(normal: Array, names: list[str]) -> Array:
    """As the array of this name should be spread."""
    if names[-1] == "kernel":
        inputs = normal.shape["blocks" in names : -1]  # blocks are stacked by layer
        return normal * math.prod(inputs) ** -0.5
    if names[-1] in ("q_scale", "k_scale", "spread"):
        return 1 + 0.1 * normal
    return 0.3 * normal
