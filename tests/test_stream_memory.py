"""What a stream remembers: commits, steps, the anchor, no memory, and lost sources."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import MODEL, REACH, RING, TOKENS, frames, play, settings, start

from mirage_jax import cache as frame_cache
from mirage_jax.cache import EMPTY
from mirage_jax.flow import STEP_COUNTS
from mirage_jax.stream import StreamState, reset
from mirage_jax.stream_config import StreamConfig

ONE = settings()
HOLD = 2
FREE = settings(batch=2, hold=HOLD)


def slot(state: StreamState, number: int) -> np.ndarray:
    """K and V [2, L, B, N, K, E] of the frame with this number; -1 is the anchor."""
    ring = -1 if number < 0 else (number + 1) % (RING + 1)
    first = int(frame_cache.slot_start(ring, MODEL.denoiser, TOKENS))
    k, v = np.asarray(state.cache.k), np.asarray(state.cache.v)
    return np.stack([k, v])[:, :, :, first : first + TOKENS]


def influence_of_the_first_frame(stream: StreamConfig, count: int) -> np.ndarray:
    """Largest change of each frame's latent when the first source is another."""
    clip = frames(count)
    other = clip.copy()
    other[0] = 255 - other[0]
    gap = np.abs(play(stream, clip)[1] - play(stream, other)[1])
    return gap.max(axis=(1, 2, 3, 4))


@functools.cache
def latents_of(**changes: Any) -> np.ndarray:
    return play(settings(**changes), frames(RING + 4))[1]


def test_the_ring_counts_ages_and_the_oldest_makes_room():
    state = play(ONE, frames(RING + 3))[2]
    age = np.asarray(state.cache.age)[0]
    assert age[0] == EMPTY, "no anchor was asked for"
    assert sorted(age[1:]) == list(range(RING + 1))
    assert age[1 + int(state.cache.cursor)] == 0
    young = play(ONE, frames(2))[2]
    assert sorted(np.asarray(young.cache.age)[0]) == [EMPTY] * RING + [0, 1]


@pytest.mark.parametrize("count", [3, RING + 4])
def test_slots_have_no_order_so_a_ring_may_be_turned(count):
    stream = settings(anchor=True)
    state = play(stream, frames(count))[2]
    cache = frame_cache.turned(state.cache, MODEL.denoiser)
    assert state.cache.cursor != 0 and cache.cursor == 0
    assert cache.age[0, 1] == 0, "the newest frame comes first"
    step, held = toy_model.step_of(stream), toy_model.weights(stream)
    again = dataclasses.replace(jax.tree.map(jnp.copy, state), cache=cache)
    source, arrived = frames(count + 1)[-1], np.ones(1, bool)
    first, second = (
        np.asarray(step(held, one, source, arrived)[0].styled) for one in (again, state)
    )
    # The same sums over keys in another order.
    np.testing.assert_allclose(first, second, atol=2e-5)


@pytest.mark.parametrize(
    "commit, steps",
    [
        *(("merged", steps) for steps in STEP_COUNTS),
        *((commit, steps) for commit in ("lagged", "clean") for steps in (1, 2)),
    ],
)
def test_commits_and_steps_run(commit, steps):
    found = latents_of(commit=commit, steps=steps)
    assert np.isfinite(found).all() and found.std() > 0.1
    if (commit, steps) != ("merged", 1):
        merged = latents_of(commit="merged", steps=1)
        # One pass from noise without history is the same in every commit.
        same = np.abs(found[0] - merged[0]).max() < 1e-4
        assert same == (steps == 1)
        assert np.abs(found[1] - merged[1]).max() > 1e-3


def test_the_lagged_commit_keeps_what_a_clean_pass_would():
    lagged, clean = settings(commit="lagged"), settings(commit="clean")
    merged = play(ONE, frames(3))[2]
    late, soon = (play(stream, frames(3))[2] for stream in (lagged, clean))
    # The last frame's K and V are still those of a noisy one in the lagged commit.
    for number in range(2):
        found, expected = slot(late, number), slot(soon, number)
        np.testing.assert_allclose(found, expected, atol=2e-4)
        assert np.abs(found - slot(merged, number)).max() > 0.01
    assert np.abs(slot(late, 2) - slot(soon, 2)).max() > 0.01
    np.testing.assert_allclose(late.styled, soon.styled, atol=5e-4)


@pytest.mark.parametrize("commit", ["lagged", "clean"])
def test_a_commit_of_the_output_remembers_for_ever(commit):
    found = influence_of_the_first_frame(settings(commit=commit), REACH + 5)
    assert (found > 0).all()


@pytest.mark.parametrize("commit", ["lagged", "clean"])
def test_a_reset_forgets_the_last_picture_too(commit):
    stream = settings(batch=2, commit=commit)
    clip = frames(RING + 3, 2)
    state = reset(play(stream, clip)[2], jnp.array([False, True]), stream.hold)
    opened = dataclasses.replace(start(stream), key=jnp.copy(state.key))
    later = frames(4, 2, seed=1)
    fresh, found = (play(stream, later, one)[1] for one in (opened, state))
    # The same sums over keys in another order.
    np.testing.assert_allclose(found[:, 1], fresh[:, 1], atol=1e-4)
    assert np.abs(found[0, 0] - fresh[0, 0]).max() > 0.01, "the other one remembers"


@pytest.mark.parametrize("commit", ["merged", "lagged"])
def test_the_anchor_keeps_the_first_frame(commit):
    stream = settings(commit=commit, anchor=True)
    count = REACH + RING + 4
    state = play(stream, frames(RING + 1))[2]
    after = play(stream, frames(count)[RING + 1 :], state)
    # Bit for bit the K and V that the first frame committed.
    np.testing.assert_array_equal(
        slot(after[2], -1), slot(play(stream, frames(2))[2], 0)
    )
    assert int(after[2].cache.age[0, 0]) > REACH
    if commit == "merged":
        with_anchor = influence_of_the_first_frame(stream, count)
        without = influence_of_the_first_frame(ONE, count)
        assert (with_anchor > 1e-4).all()
        assert not without[REACH + 1 :].any()


def test_the_first_frame_is_seen_once_whether_ring_or_anchor_holds_it():
    # Training shows it in one place only, so a stream must not count it twice.
    bias = jnp.zeros((1, 1, RING + 3))
    state = play(settings(anchor=True), frames(1))[2]
    cache = state.cache
    for age in range(1, 2 * RING):
        cache = frame_cache.advance(cache)
        seen = np.isfinite(frame_cache.age_bias(bias, cache.age))[0, 0, 0, 0]
        anchor, ring = seen[1], seen[2:][np.asarray(cache.age)[0, 1:] == age]
        assert anchor == (age > RING), age
        assert ring.all() and len(ring) == (age <= RING), age


def test_without_memory_every_frame_is_a_stream_of_its_own():
    clip = frames(RING + 2)
    found = play(settings(memory=False), clip)[1]
    for number, source in enumerate(clip):
        fresh = dataclasses.replace(start(ONE), frame=jnp.array([number]))
        alone = play(ONE, source[None], fresh)[1]
        np.testing.assert_allclose(found[number], alone[0], atol=2e-4)
    assert np.abs(found - play(ONE, clip)[1])[1:].max(axis=(1, 2, 3, 4)).min() > 1e-3


def test_a_lost_source_is_held_for_a_while_and_then_done_without():
    clip = frames(8, batch=2)
    arrived = np.ones((8, 2), bool)
    arrived[2:7, 1] = False  # the second camera is lost for five frames
    state, found = None, []
    for number in range(8):
        part = slice(number, number + 1)
        _, latents, state = play(FREE, clip[part], state, arrived[part])
        gap = max(min(number, 6) - 1, 0) if number < 7 else 0
        np.testing.assert_array_equal(state.missing, [0, gap])
        np.testing.assert_array_equal(state.present, [True, gap <= HOLD])
        found.append(latents[0])
    latents = np.stack(found)
    # The other stream does not notice.
    unbroken = play(FREE, clip)[1]
    np.testing.assert_array_equal(latents[:, 0], unbroken[:, 0])
    # A held source is the last one, sent again.
    again = clip.copy()
    again[2 : 2 + HOLD, 1] = clip[1, 1]
    repeated = play(FREE, again)[1]
    held = slice(0, 2 + HOLD)
    np.testing.assert_allclose(latents[held, 1], repeated[held, 1], atol=1e-5)
    # After that the model is told that there is none.
    third = 2 + HOLD
    again[third, 1] = clip[1, 1]
    with_source = play(FREE, again[: third + 1])[1][third, 1]
    assert np.abs(latents[third, 1] - with_source).max() > 0.01
    assert np.isfinite(latents).all()
    assert np.abs(np.diff(latents[2:, 1], axis=0)).max(axis=(1, 2, 3)).min() > 1e-3


def test_pixels_that_did_not_arrive_are_never_seen():
    clip = frames(7, batch=2)
    arrived = np.ones((7, 2), bool)
    arrived[2:6, 0] = False
    other = clip.copy()
    other[2:6, 0] = 255 - other[2:6, 0]
    found = [play(FREE, x, arrived=arrived)[1] for x in (clip, other)]
    np.testing.assert_array_equal(*found)


def test_a_stream_can_start_without_any_source():
    nothing = np.zeros((5, 2), bool)
    nothing[:, 1] = True
    clip = frames(5, batch=2)
    _, latents, state = play(FREE, clip, arrived=nothing)
    assert np.isfinite(latents).all()
    np.testing.assert_array_equal(state.present, [False, True])
    np.testing.assert_array_equal(state.source[0], 0)
    _, _, state = play(FREE, clip, state)
    np.testing.assert_array_equal(state.present, [True, True])


def test_an_empty_slot_may_hold_anything():
    clip = frames(3)
    state = start(ONE)
    prompt = MODEL.denoiser.prompt_tokens
    junk = dataclasses.replace(
        state.cache,
        k=state.cache.k.at[:, :, prompt:].set(100.0),
        v=state.cache.v.at[:, :, prompt:].set(100.0),
    )
    found = play(ONE, clip, dataclasses.replace(state, cache=junk))[1]
    np.testing.assert_array_equal(found, play(ONE, clip)[1])


def test_toy_streams_are_lively():
    # Guards the tests above: with weights that do nothing all of them would pass.
    assert latents_of(commit="merged", steps=1).std() > 0.1
    gap = np.abs(np.diff(latents_of(commit="merged", steps=1), axis=0))
    assert gap.max(axis=(1, 2, 3, 4)).min() > 0.1
    assert toy_model.params()["denoiser"]["head"]["Dense_0"]["kernel"].any()
