"""The prompts of a training step: their style, their length, how far they stray."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.data.prompt_table import PromptTable
from mirage_jax.errors import MirageError
from mirage_jax.training.prompts import (
    PromptAugmentation,
    prompt_rows,
    sample_prompts,
)

STYLES, WORDINGS, WIDTH = 3, 4, 384
COUNTS = np.array([4, 1, 2], np.int32)


@functools.cache
def embeddings() -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(STYLES, WORDINGS, WIDTH))
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


def drawn(mix: float, noise: float) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), 256)
    draw = functools.partial(
        sample_prompts,
        jnp.asarray(embeddings()),
        jnp.asarray(COUNTS),
        augmentation=PromptAugmentation(mix, noise),
    )
    return np.asarray(jax.jit(jax.vmap(draw))(keys))


def test_without_augmentation_they_are_the_wordings_of_their_style():
    found = drawn(0.0, 0.0)
    for style, count in enumerate(COUNTS):
        likeness = found[:, style] @ embeddings()[style].T  # [draws, wordings]
        np.testing.assert_allclose(likeness.max(axis=1), 1, atol=1e-5)
        assert set(likeness.argmax(axis=1)) == set(range(count))


@pytest.mark.parametrize("mix, noise", [(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_they_stray_but_keep_unit_length_and_their_style(mix, noise):
    found = drawn(mix, noise)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    likeness = np.einsum("dse,twe->dstw", found, embeddings()).max(axis=-1)
    assert (likeness.argmax(axis=-1) == np.arange(STYLES)).mean() > 0.99
    # A style of one wording has nothing to mix with.
    strayed = likeness[:, 1, 1] < 0.999
    assert strayed.mean() > 0.9 if noise else not strayed.any()
    assert (likeness[:, 0, 0] < 0.999).mean() > 0.5


def test_rows_follow_the_order_of_the_styles():
    table = PromptTable(
        style_names=("a", "b", "c"),
        train_texts=np.full((3, 2), "words"),
        train_counts=np.array([2, 1, 2], np.int32),
        train_embeddings=np.arange(3 * 2 * 384, dtype=np.float32).reshape(3, 2, 384),
        held_out_texts=np.zeros((3, 0), str),
        held_out_counts=np.zeros(3, np.int32),
        held_out_embeddings=np.zeros((3, 0, 384), np.float32),
    )
    rows, counts = prompt_rows(table, ("c", "b"))
    np.testing.assert_array_equal(rows, table.train_embeddings[[2, 1]])
    np.testing.assert_array_equal(counts, [2, 1])
    with pytest.raises(MirageError, match="no wordings for d"):
        prompt_rows(table, ("a", "d"))
