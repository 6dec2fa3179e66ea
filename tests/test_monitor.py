"""A stream that goes wrong is noticed and starts anew; what merely changes is not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_model import CELLS, MODEL, frames, params, play, prompts, settings

from mirage_jax import monitor
from mirage_jax.cache import EMPTY
from mirage_jax.stream import reset, set_prompt

WATCHED = settings(batch=2, commit="lagged", monitor=True)
CALM = monitor.FIRST_JUDGED + 2  # frames until there is a habit


def judged(styled, source, seen=None, present=True):
    """The monitor after a clip of latents [T, B, h, w, C]."""
    seen = seen or monitor.new_monitor(styled.shape[1], styled.shape[-1])
    here = jnp.full(styled.shape[1], present)
    for pair in zip(source, styled, strict=True):
        seen = _judge(seen, *pair, here)
    return seen


_judge = jax.jit(monitor.judge)


def habit(count, seed=0):
    """Latents of a scene with a little noise."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(1, 2, *CELLS))
    return jnp.asarray(scene + 0.1 * rng.normal(size=(count, 2, *CELLS)), jnp.float32)


def only_first(change, latents):
    return latents.at[:, 0].set(change(latents[:, 0]))


WRONG = {
    "a cast": lambda x: x + 0.5,
    "washed out": lambda x: 0.6 * x,
    "glaring": lambda x: 1.5 * x,
    "broken": lambda x: x * jnp.nan,
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_the_source_does_not_explain_is_wrong(change):
    source, styled = habit(CALM), habit(CALM, 1)
    seen = judged(styled, source)
    assert not seen.astray.any() and seen.found.tolist() == [0, 0]
    seen = judged(only_first(change, styled[-1:]), source[-1:], seen)
    assert seen.astray.tolist() == [True, False] and seen.found.tolist() == [1, 0]
    assert seen.frames.tolist() == [0, CALM + 1]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(seen))


def test_a_habit_is_not_judged_before_there_is_one_nor_without_a_source():
    source, styled = habit(CALM), habit(CALM, 1)
    few = judged(styled[:3], source[:3])
    wrong = only_first(WRONG["a cast"], styled[-1:])
    assert not judged(wrong, source[-1:], few).astray.any()
    seen = judged(styled, source)
    alone = judged(wrong, source[-1:], seen, present=False)
    assert not alone.astray.any()
    np.testing.assert_array_equal(alone.styled.colour, seen.styled.colour)
    broken = only_first(WRONG["broken"], styled[-1:])
    assert judged(broken, source[-1:], few, present=False).astray.tolist() == [True, 0]


def test_a_new_scene_is_no_fault():
    source, styled = habit(CALM), habit(CALM, 1)
    seen = judged(styled, source)
    cut = only_first(lambda x: 0.7 * x + 0.4, source[-1:])
    assert not judged(
        only_first(lambda x: 0.7 * x + 0.5, styled[-1:]), cut, seen
    ).astray.any()


def test_a_look_that_stays_is_wrong_once_and_then_the_habit():
    source, styled = habit(3 * CALM), habit(3 * CALM, 1)
    styled = styled.at[CALM:].add(0.6)
    seen = judged(styled, source)
    assert seen.found.tolist() == [1, 1] and not seen.astray.any()


@functools.cache
def calm():
    """Two watched streams with a habit, and the clip that goes on."""
    clip = np.repeat(frames(1, 2), CALM + 6, axis=0)
    return clip, play(WATCHED, clip[:CALM])[2]


def poisoned(state):
    """The first stream remembers noise."""
    cache, keys = state.cache, MODEL.denoiser.prompt_tokens
    noise = 30 * jax.random.normal(jax.random.key(1), cache.v[:, 0, keys:].shape)
    v = cache.v.at[:, 0, keys:].set(noise)
    return dataclasses.replace(state, cache=dataclasses.replace(cache, v=v))


def test_a_stream_forced_wrong_starts_anew_and_the_other_never_knows():
    clip, state = calm()
    state = jax.tree.map(jnp.array, state)
    assert state.monitor.found.tolist() == [0, 0]
    keys = MODEL.denoiser.prompt_tokens
    prompt = np.asarray(state.cache.k[:, :, :keys])
    fine = play(WATCHED, clip[CALM:], jax.tree.map(jnp.array, state))[1]
    wrong = poisoned(state)
    _, bad, wrong = play(WATCHED, clip[CALM : CALM + 1], wrong)
    assert wrong.monitor.astray.tolist() == [True, False]
    assert np.all(np.asarray(wrong.cache.age[0]) == EMPTY)
    assert np.any(np.asarray(wrong.cache.age[1]) != EMPTY)
    assert wrong.frame.tolist() == [0, CALM + 1]
    np.testing.assert_array_equal(wrong.cache.k[:, :, :keys], prompt)
    _, after, healed = play(WATCHED, clip[CALM + 1 :], wrong)
    assert healed.monitor.found.tolist() == [1, 0]
    np.testing.assert_array_equal(after[:, 1], fine[1:, 1])
    np.testing.assert_array_equal(bad[0, 1], fine[0, 1])
    # It fades from the wrong picture into what a fresh stream makes of the source.
    fresh = play(WATCHED, clip[CALM + 1 :])[1]
    gap = np.abs(after - fresh)[:, 0].mean(axis=(1, 2, 3))
    lost = np.abs(bad[0, 0] - fresh[0, 0]).mean()
    np.testing.assert_allclose(gap[0], lost / 2, rtol=1e-3)
    assert gap[-1] < 0.1 * lost


def test_another_prompt_and_a_reset_begin_new_habits():
    _, state = calm()
    first, words = jnp.asarray([True, False]), prompts(2, seed=5)

    def habits(state):
        assert state.monitor is not None
        return state.monitor.frames.tolist()

    assert habits(set_prompt(params(), MODEL, state, words, first)) == [0, CALM]
    assert habits(set_prompt(params(), MODEL, state, words)) == [0, 0]
    assert habits(reset(state, ~first, 8)) == [CALM, 0]


def test_nobody_watches_by_default():
    assert play(settings(), frames(1))[2].monitor is None


def test_watching_changes_no_picture():
    clip = frames(3, 2)
    plain = dataclasses.replace(WATCHED, monitor=False)
    (pictures, latents, _), (wanted, wanted_latents, _) = (
        play(stream, clip) for stream in (WATCHED, plain)
    )
    # Two programs, which may round the same sums to neighbouring bytes.
    np.testing.assert_allclose(latents, wanted_latents, atol=1e-4)
    assert np.abs(pictures.astype(int) - wanted).max() <= 1
