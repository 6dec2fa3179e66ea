"""What a training step draws: clips, pairs, and which sources are lost."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_clips import BATCH, STYLES, compiled, data, pair_store

from mirage_jax.data.teachers import all_styles
from mirage_jax.data.varied_styles import VARIED_STYLES
from mirage_jax.errors import MirageError
from mirage_jax.training import clips


@functools.cache
def pair_sampler() -> Any:
    draw = functools.partial(clips.sample_pairs_of_styles, batch=BATCH)
    return compiled(draw, data(with_pairs=True), jax.random.key(0))


def test_every_style_gives_one_clip_and_the_users_come_last():
    drawn = pair_sampler()(data(with_pairs=True), jax.random.key(1))
    source, target, anchored = drawn
    assert source.shape == target.shape == (4, 4, 32, 32, 3)
    assert source.min() >= 0 and source.max() <= 1
    assert target.min() >= 0 and target.max() <= 1
    np.testing.assert_allclose(source[3], 0.2, atol=1e-3)
    np.testing.assert_allclose(target[3], 0.8, atol=1e-3)
    assert anchored.shape == (4,)
    assert (np.abs(source - target).mean(axis=(1, 2, 3, 4)) > 0.001).all()


def test_only_effects_that_compare_no_frames_open_with_an_old_one():
    anchored = np.stack(
        [
            pair_sampler()(data(with_pairs=True), jax.random.key(seed))[2]
            for seed in range(16)
        ]
    )
    assert anchored[:, :2].any(axis=0).all() and not anchored[:, :2].all()
    assert not anchored[:, 2].any(), "signal_loss looks at its earlier frames"
    assert not anchored[:, 3].any(), "a user's effect may do so too"


@pytest.mark.parametrize("lacking", ["clips", "photographs"])
def test_a_store_of_one_kind_is_enough(lacking):
    whole = data().store
    empty = jnp.zeros((0, 48, 64, 3), jnp.uint8)
    if lacking == "clips":
        nothing = {name: jnp.zeros(0, jnp.int32) for name in ("clip_start",)}
        store = dataclasses.replace(whole, frames=empty, **nothing)
    else:
        store = dataclasses.replace(whole, photos=empty)
    part = dataclasses.replace(data(), store=store)
    draw = functools.partial(clips.sample_pairs_of_styles, batch=BATCH)
    source, _, anchored = jax.eval_shape(draw, part, jax.random.key(0))
    assert source.shape[0] == anchored.shape[0] == len(STYLES)


def test_a_style_sees_clips_and_photographs_in_turn():
    """Dark clips and bright photographs tell which is which."""
    store = dataclasses.replace(
        data().store,
        frames=jnp.full_like(data().store.frames, 20),
        photos=jnp.full_like(data().store.photos, 230),
    )
    apart = dataclasses.replace(data(with_pairs=True), store=store)
    bright = []
    for seed in range(12):
        source, _, _ = pair_sampler()(apart, jax.random.key(seed))
        bright.append([float(source[0].mean()) > 0.5, float(source[2].mean()) > 0.5])
    assert set(np.array(bright)[:, 0]) == set(np.array(bright)[:, 1]) == {True, False}


def test_styles_are_chosen_by_name():
    assert clips.style_names(None, None, STYLES) == STYLES
    assert clips.style_names(None, pair_store())[-1] == "mine"
    assert len(clips.style_names(None, None)) == 13
    with pytest.raises(MirageError, match="'sepja'"):
        clips.style_names(None, None, ("sepja",))


def test_sources_are_only_lost_at_the_end_of_a_clip():
    draw = functools.partial(clips.presence, clips=512, batch=BATCH)
    present = np.asarray(draw(jax.random.key(0)))
    assert present.shape == (512, BATCH.frames)
    assert present[:, 0].all(), "the first frame has a source"
    assert (present[:, 1:] <= present[:, :-1]).all(), "what is lost stays lost"
    assert 1 - present[:, -1].mean() == pytest.approx(0.5, abs=0.08)
    lost = (~present).sum(axis=1)
    assert set(lost) == set(range(BATCH.frames))
    never = dataclasses.replace(BATCH, source_dropped=0.0)
    assert clips.presence(jax.random.key(0), 64, never).all()


def test_the_world_stands_still_where_a_source_is_lost():
    draw = functools.partial(clips.sample_pairs_of_styles, batch=BATCH)
    # The users' pair of this test moves too, else nothing could be seen of it.
    still = pair_store()
    bright = np.arange(6, dtype=np.uint8)[:, None, None, None]
    moving = dataclasses.replace(still, source=still.source + 20 * bright)
    moving = dataclasses.replace(moving, styled=moving.source)
    some = dataclasses.replace(data(with_pairs=True), pairs=moving)
    present = np.ones((4, BATCH.frames), bool)
    present[[0, 3], 2:] = False
    key = jax.random.key(2)
    source, target, _ = jax.jit(draw)(some, key, present=jnp.array(present))
    whole, styled, _ = jax.jit(draw)(some, key)
    np.testing.assert_array_equal(source[0, 2:], np.stack([source[0, 1]] * 2))
    for found, moved in ((source, whole), (target, styled)):
        np.testing.assert_array_equal(found[3, 2:], np.stack([found[3, 1]] * 2))
        np.testing.assert_array_equal(found[:, :2], moved[:, :2])
        np.testing.assert_array_equal(found[1], moved[1])
        assert np.abs(moved[3, 2] - moved[3, 1]).min() > 0.01
    # Sepia is a function of the frame alone.
    np.testing.assert_array_equal(target[0, 2:], np.stack([target[0, 1]] * 2))
    # Effects go on, whoever has styles of his own beside them.
    lost = jnp.zeros((4, BATCH.frames), bool).at[:, 0].set(True)
    beside = jax.jit(draw)(some, key, present=lost)
    alone = jax.jit(draw)(data(), key, present=lost[:3])
    for found, wanted in zip(beside[:2], alone[:2], strict=True):
        np.testing.assert_array_equal(found[:3], wanted)
    assert np.abs(beside[0][1, 2] - beside[0][1, 1]).max() > 0.01, "low light is noisy"


def test_a_style_with_variants_takes_part_with_several_clips():
    twice = ("sepia", "oil", "sepia")
    assert clips.repeated_looks(None, twice, 3) == twice, "a style may be named twice"
    names = clips.repeated_looks(None, ("sepia", "screen_print"), 3)
    assert names == ("sepia", *["screen_print"] * 3)
    assert clips.style_names(None, None, names) == names
    assert len(clips.repeated_looks(None, (), 2)) == len(all_styles()) + len(
        VARIED_STYLES
    )
    with pytest.raises(MirageError, match="looks=0"):
        clips.repeated_looks(None, (), 0)
