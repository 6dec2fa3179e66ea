"""The seated streams on a real device, with the toy model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import MODEL, frames, params, prompts, settings

from mirage_jax.live.device import SeatedStreams
from mirage_jax.weights import Model

WORDS = np.asarray(prompts(2))
BOTH = np.ones(2, bool)
FIRST, SECOND = np.array([True, False]), np.array([False, True])


@functools.cache
def compiled(commit):
    stream = settings(batch=2, commit=commit)
    return SeatedStreams(Model(MODEL, params(), "0" * 64), stream)


def begin(streams, chosen=BOTH):
    """The chosen streams anew, with the noise that they had when they were opened."""
    streams.renew(WORDS, chosen)
    keys = jax.random.split(jax.random.key(0), 2)
    streams._state = dataclasses.replace(streams._state, key=keys)


@pytest.fixture(params=["merged", "lagged"])
def commit(request):
    """A CPU's and a GPU's: the second one also carries the last picture along."""
    return request.param


@pytest.fixture
def streams(commit):
    """Two streams that have not begun; compiled once for all tests."""
    one = compiled(commit)
    if one._state is None:
        one.open(lambda stage: None)
    begin(one)
    return one


@pytest.fixture
def both_steps(streams):
    """The same, prepared for frames of two steps as well."""
    streams.prepare(2)
    return streams


def play(streams, clip, arrived=BOTH, steps=1):
    return np.stack([streams.step(images, arrived, steps)[0] for images in clip])


def assert_same(one, other):
    """Up to rounding: where a frame's slot lies decides the order of sums."""
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_a_renewed_seat_has_no_trace_of_the_one_before(streams):
    clip = frames(3, 2)
    fresh = play(streams, clip)
    streams.step(frames(1, 2, seed=1)[0], BOTH, 1)
    before = streams.step(frames(1, 2, seed=2)[0], BOTH, 1)[0]
    begin(streams, FIRST)
    assert_same(play(streams, clip)[:, 0], fresh[:, 0])
    assert not np.array_equal(before, fresh[0])
    state = streams._state
    begin(streams, SECOND)
    prompt_keys = MODEL.denoiser.prompt_tokens
    assert not np.any(streams._state.cache.k[:, 1, prompt_keys:])
    assert not np.any(streams._state.source[1])
    assert not np.any(streams._state.styled[1])
    assert np.any(streams._state.cache.k[:, 0, prompt_keys:])
    assert state.cache.k.is_deleted()  # it was given away, not copied


def test_a_renewed_seat_draws_noise_of_its_own(streams):
    def keys():
        return np.asarray(jax.random.key_data(streams._state.key))

    before = keys()
    streams.renew(WORDS, SECOND)
    np.testing.assert_array_equal((keys() == before).all(axis=1), FIRST)


def test_nan_in_one_stream_is_noticed_and_healed_and_the_other_never_knows(streams):
    clip = frames(6, 2)
    alone = play(streams, clip)
    begin(streams)
    play(streams, clip[:2])
    state = streams._state
    cache = dataclasses.replace(state.cache, v=state.cache.v.at[:, 0].set(jnp.nan))
    streams._state = dataclasses.replace(state, cache=cache)
    pictures, healthy = streams.step(clip[2], BOTH, 1)
    assert healthy.tolist() == [False, True]
    begin(streams, FIRST)
    healed = play(streams, clip[3:])
    assert_same(pictures[1], alone[2, 1])
    assert_same(healed[:, 1], alone[3:, 1])
    assert np.ptp(healed[:, 0]) > 0


def test_a_loud_picture_is_not_healthy(streams, monkeypatch):
    assert streams.step(frames(1, 2)[0], BOTH, 1)[1].all()
    loud = jax.tree.map(lambda x: 10 * x, streams._params["denoiser"]["head"])
    denoiser = streams._params["denoiser"] | {"head": loud}
    monkeypatch.setattr(streams, "_params", streams._params | {"denoiser": denoiser})
    assert not streams.step(frames(1, 2)[0], BOTH, 1)[1].any()


def test_prompt_of_one_stream(streams):
    clip = frames(1, 2)
    before = play(streams, clip)
    begin(streams)
    streams.set_prompt(WORDS[::-1], SECOND)
    after = play(streams, clip)
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert not np.array_equal(before[:, 1], after[:, 1])


def test_an_error_leaves_no_half_of_a_state(streams):
    with pytest.raises(TypeError, match="compiled"):
        streams.step(np.zeros((2, 32, 32, 3), np.uint8), BOTH, 1)
    with pytest.raises(ValueError, match=r"call open\(\) first"):
        streams.step(frames(1, 2)[0], BOTH, 1)
    streams.open(lambda stage: None)
    begin(streams)
    assert streams.step(frames(1, 2)[0], BOTH, 1)[1].all()


def test_frames_of_other_steps_are_those_of_a_stream_of_such_steps(both_steps, commit):
    clip = frames(3, 2)
    wanted = toy_model.play(settings(batch=2, steps=2, commit=commit), clip)[0]
    assert_same(play(both_steps, clip, steps=2), wanted)
    begin(both_steps)
    assert np.abs(play(both_steps, clip).astype(int) - wanted).max() > 1


def test_steps_change_from_frame_to_frame_and_the_memory_stays(both_steps):
    clip = frames(3, 2)

    def mixed():
        begin(both_steps)
        played = zip(clip, (2, 1, 2), strict=True)
        return [both_steps.step(images, BOTH, steps)[0] for images, steps in played]

    first = mixed()
    assert_same(np.stack(mixed()), np.stack(first))
    begin(both_steps)
    alone = play(both_steps, clip[2:], steps=2)[0]
    assert np.abs(first[2].astype(int) - alone).max() > 1


def test_prompts_and_renewals_have_one_program_for_all_steps(both_steps):
    def programs(steps):
        play(both_steps, frames(1, 2), steps=steps)
        both_steps.set_prompt(WORDS, BOTH)
        begin(both_steps)
        both = both_steps._renew, both_steps._set_prompt
        return [function._cache_size() for function in both]

    assert programs(1) == programs(2)


def test_other_steps_are_there_after_an_error_too(both_steps):
    clip = frames(1, 2)
    before = play(both_steps, clip, steps=2)
    with pytest.raises(TypeError, match="compiled"):
        both_steps.step(np.zeros((2, 32, 32, 3), np.uint8), BOTH, 2)
    both_steps.open(lambda stage: None)
    begin(both_steps)
    assert_same(play(both_steps, clip, steps=2), before)


def test_only_the_steps_that_are_asked_for_are_compiled():
    fresh = SeatedStreams(Model(MODEL, params(), "0" * 64), settings(batch=2))
    fresh.open(lambda stage: None)
    assert list(fresh._programs) == [1]


def test_opening_tells_its_stages(commit):
    stages: list[str] = []
    compiled(commit).open(stages.append)
    assert stages == ["loading weights", "compiling the model", "compiling prompts"]
