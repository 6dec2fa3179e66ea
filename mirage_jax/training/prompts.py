"""The prompts of a training step: wordings of each style, and what lies around them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mirage_jax.data.prompt_table import PromptTable
from mirage_jax.errors import MirageError


@dataclasses.dataclass(frozen=True)
class PromptAugmentation:
    """Embeddings between and around the wordings, so that unseen ones find the style.

    Attributes:
      mix: largest share of a second wording of the style mixed into the first.
      noise: largest length of the random direction added to the unit embedding.
    """

    mix: float = 0.5
    noise: float = 1.0


def prompt_rows(
    table: PromptTable, styles: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and counts of the named styles, in that order.

    Raises:
      MirageError: the table lacks a style.
    """
    missing = [name for name in styles if name not in table.style_names]
    if missing:
        raise MirageError(
            f"prompts.npz has no wordings for {', '.join(missing)}: write it again "
            "with python -m experiments.prepare_data --prompts_only"
        )
    rows = [table.style_names.index(name) for name in styles]
    return table.train_embeddings[rows], table.train_counts[rows]


def sample_prompts(
    embeddings: Float[Array, "s m 384"],
    counts: Int[Array, " s"],
    key: Array,
    augmentation: PromptAugmentation,
) -> Float[Array, "s 384"]:
    """One embedding of unit length for every style.

    Args:
      embeddings: wordings of each style; the first `counts` of a row are distinct.
      counts: at least 1 each.
      key: same key, same prompts.
      augmentation: with both parts 0 the wordings themselves.
    """
    styles, _, width = embeddings.shape
    choice_key, share_key, length_key, direction_key = jax.random.split(key, 4)
    choice = jax.random.uniform(choice_key, (2, styles)) * counts[None]
    first, second = embeddings[jnp.arange(styles)[None], choice.astype(jnp.int32)]
    share = augmentation.mix * jax.random.uniform(share_key, (styles, 1))
    prompt = _unit((1 - share) * first + share * second)
    length = augmentation.noise * jax.random.uniform(length_key, (styles, 1))
    direction = jax.random.normal(direction_key, (styles, width)) * width**-0.5
    return _unit(prompt + length * direction)


def _unit(x: Float[Array, "s 384"]) -> Float[Array, "s 384"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
