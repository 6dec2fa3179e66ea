"""The seated streams on a real device, with the toy model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_model import MODEL, frames, params, prompts, settings

from mirage_jax.live.device import SeatedStreams
from mirage_jax.weights import Model

WORDS = np.asarray(prompts(2))
BOTH = np.ones(2, bool)
FIRST, SECOND = np.array([True, False]), np.array([False, True])


@functools.cache
def compiled():
    return SeatedStreams(Model(MODEL, params(), "0" * 64), settings(batch=2))


@pytest.fixture
def streams():
    """Two streams that have not begun; compiled once for all tests."""
    one = compiled()
    if one._state is None:
        one.open(lambda stage: None)
    one.renew(WORDS, BOTH)
    return one


def play(streams, clip, arrived=BOTH):
    return np.stack([streams.step(images, arrived)[0] for images in clip])


def assert_same(one, other):
    """Up to rounding: where a frame's slot lies decides the order of sums."""
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_a_renewed_seat_has_no_trace_of_the_one_before(streams):
    clip = frames(3, 2)
    fresh = play(streams, clip)
    streams.step(frames(1, 2, seed=1)[0], BOTH)
    before = streams.step(frames(1, 2, seed=2)[0], BOTH)[0]
    streams.renew(WORDS, FIRST)
    assert_same(play(streams, clip)[:, 0], fresh[:, 0])
    assert not np.array_equal(before, fresh[0])
    state = streams._state
    streams.renew(WORDS, SECOND)
    prompt_keys = MODEL.denoiser.prompt_tokens
    assert not np.any(streams._state.cache.k[:, 1, prompt_keys:])
    assert not np.any(streams._state.source[1])
    assert np.any(streams._state.cache.k[:, 0, prompt_keys:])
    assert state.cache.k.is_deleted()  # it was given away, not copied


def test_nan_in_one_stream_is_noticed_and_healed_and_the_other_never_knows(streams):
    clip = frames(6, 2)
    alone = play(streams, clip)
    streams.renew(WORDS, BOTH)
    play(streams, clip[:2])
    state = streams._state
    cache = dataclasses.replace(state.cache, v=state.cache.v.at[:, 0].set(jnp.nan))
    streams._state = dataclasses.replace(state, cache=cache)
    pictures, healthy = streams.step(clip[2], BOTH)
    assert healthy.tolist() == [False, True]
    streams.renew(WORDS, FIRST)
    healed = play(streams, clip[3:])
    assert_same(pictures[1], alone[2, 1])
    assert_same(healed[:, 1], alone[3:, 1])
    assert np.ptp(healed[:, 0]) > 0


def test_a_loud_picture_is_not_healthy(streams, monkeypatch):
    assert streams.step(frames(1, 2)[0], BOTH)[1].all()
    loud = jax.tree.map(lambda x: 10 * x, streams._params["denoiser"]["head"])
    denoiser = streams._params["denoiser"] | {"head": loud}
    monkeypatch.setattr(streams, "_params", streams._params | {"denoiser": denoiser})
    assert not streams.step(frames(1, 2)[0], BOTH)[1].any()


def test_prompt_of_one_stream(streams):
    clip = frames(1, 2)
    before = play(streams, clip)
    streams.renew(WORDS, BOTH)
    streams.set_prompt(WORDS[::-1], SECOND)
    after = play(streams, clip)
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert not np.array_equal(before[:, 1], after[:, 1])


def test_an_error_leaves_no_half_of_a_state(streams):
    with pytest.raises(ValueError, match="does not fit"):
        streams.step(np.zeros((2, 32, 32, 3), np.uint8), BOTH)
    with pytest.raises(ValueError, match=r"call open\(\) first"):
        streams.step(frames(1, 2)[0], BOTH)
    streams.open(lambda stage: None)
    streams.renew(WORDS, BOTH)
    assert streams.step(frames(1, 2)[0], BOTH)[1].all()


def test_opening_tells_its_stages():
    stages: list[str] = []
    compiled().open(stages.append)
    assert stages == ["loading weights", "compiling the model", "compiling prompts"]
