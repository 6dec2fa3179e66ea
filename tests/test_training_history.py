"""History augmentation: each part does what it says, and can be switched off."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model

from mirage_jax.training.denoiser import through_codec
from mirage_jax.training.history import HistoryAugmentation, corrupt_history

MODEL = toy_model.MODEL
CLEAN = HistoryAugmentation(probability=0.0, round_trip=0.0, own=0.0)
DIRTY = dataclasses.replace(CLEAN, probability=1.0, repeat=0.3, drop=0.3)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def corrupted(key: jax.Array, latents: np.ndarray, history: HistoryAugmentation) -> Any:
    """All strengths are operands, so that one program serves every setting."""
    strengths = {name: jnp.float32(getattr(history, name)) for name in STRENGTHS}
    return history_program(latents.shape)(key, jnp.asarray(latents), strengths)


@functools.cache
def history_program(shape: tuple[int, ...]) -> Any:
    def run(key, latents, strengths):
        settings = HistoryAugmentation(**strengths, round_trip=0.0, own=0.0)
        return corrupt_history(key, latents, settings)

    strengths = {name: jnp.float32(0) for name in STRENGTHS}
    lowered = jax.jit(run).lower(jax.random.key(0), jnp.zeros(shape), strengths)
    return lowered.compile()


STRENGTHS = ("probability", "gain", "shift", "blur", "noise", "repeat", "drop")
OFF = HistoryAugmentation(1.0, *[0.0] * (len(dataclasses.fields(CLEAN)) - 1))


@pytest.mark.parametrize("settings", [CLEAN, OFF], ids=["no_clip", "no_part"])
def test_history_without_corruption_is_left_alone(settings):
    latents = numbers(3, 4, 4, 4, 8)
    found = corrupted(jax.random.key(1), latents, settings)
    np.testing.assert_array_equal(found, latents)


@pytest.mark.parametrize("part", ["gain", "shift", "blur", "noise", "repeat", "drop"])
def test_each_part_corrupts_history_in_its_own_way(part):
    latents = numbers(3, 4, 4, 4, 8)
    settings = dataclasses.replace(OFF, **{part: getattr(DIRTY, part)})
    found = np.asarray(corrupted(jax.random.key(5), latents, settings))
    change = found - np.asarray(latents)
    assert np.isfinite(found).all() and np.abs(change).max() > 1e-3
    if part == "gain":
        ratio = (found / np.asarray(latents)).reshape(3, -1)
        np.testing.assert_allclose(ratio, ratio[:, :1].repeat(ratio.shape[1], 1), 1e-3)
    if part == "shift":
        np.testing.assert_allclose(change, change[:, :1, :1, :1] + 0 * change, 0, 1e-5)
    if part == "blur":
        assert found.std() < latents.std()
    if part == "repeat":
        before = np.asarray(latents)[:, [0, 0, 1, 2]]
        kept = (found == np.asarray(latents)).all(axis=(2, 3, 4))
        repeated = (found == before).all(axis=(2, 3, 4))
        assert (kept | repeated).all() and not kept.all()
    if part == "drop":
        kept = (found == np.asarray(latents)).all(axis=(2, 3, 4))
        assert (kept | (found == 0).all(axis=(2, 3, 4))).all() and not kept.all()


@pytest.mark.parametrize("part", ["own", "round_trip"])
def test_a_share_of_the_clips_is_made_anew(part):
    latents = jnp.asarray(numbers(8, 4, 2, 2, 8))
    settings = dataclasses.replace(OFF, **{part: 0.25})
    remade: list[int] = []

    def remake(rows, x):
        remade.extend(rows.tolist())
        np.testing.assert_array_equal(x, latents[rows])
        return -x

    def corrupt(settings):
        return corrupt_history(jax.random.key(0), latents, settings, **{part: remake})

    found = corrupt(settings)
    changed = np.flatnonzero(np.asarray(found != latents).any(axis=(1, 2, 3, 4)))
    assert len(remade) == 2 and sorted(remade) == changed.tolist()
    np.testing.assert_array_equal(found[changed], -latents[changed])
    np.testing.assert_array_equal(corrupt(OFF), latents)
    slope = jax.grad(
        lambda x: corrupt_history(
            jax.random.key(0), x, settings, **{part: lambda rows, x: 3 * x}
        ).sum()
    )(latents)
    assert set(np.unique(slope)) == {0.0, 1.0}, "what is remade is data"


def test_a_round_trip_is_what_the_codec_leaves_of_a_picture():
    codec_params = toy_model.params()["codec"]
    latents = jnp.asarray(numbers(1, 1, 2, 2, MODEL.codec.channels))

    def trip(latents):
        return through_codec(codec_params, latents, MODEL, jnp.float32)

    trip = jax.jit(trip).lower(latents).compile()
    found = trip(latents)
    assert found.shape == latents.shape
    assert np.abs(found - latents).max() > 0.01
    # Coarse: an untrained codec is no inverse, but bytes are the same for a while.
    near = trip(latents + 1e-6)
    np.testing.assert_array_equal(near, found)


def test_history_is_corrupted_for_its_share_of_clips():
    latents = numbers(400, 2, 2, 2, 3)
    found = corrupted(jax.random.key(1), latents, HistoryAugmentation(0.5))
    changed = np.asarray(found != latents).any(axis=(1, 2, 3, 4))
    assert changed.mean() == pytest.approx(0.5, abs=0.08)
