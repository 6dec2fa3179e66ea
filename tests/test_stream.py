"""The frame loop: however frames are driven and batched, a stream is the same stream.

All streams here are of one kind, the merged commit with one step, where a frame's
memory is what its ring slots hold; test_stream_memory.py has the other kinds.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import (
    CELLS,
    MODEL,
    REACH,
    RING,
    frames,
    of_stream,
    params,
    play,
    settings,
    start,
    weights,
)

from mirage_jax import codec
from mirage_jax.cache import EMPTY
from mirage_jax.denoiser import denoise_clip
from mirage_jax.errors import MirageError
from mirage_jax.stream import (
    StreamState,
    make_scan,
    make_step,
    open_stream,
    reset,
    set_prompt,
    style_latent,
)

ONE = settings()
TWO = settings(batch=2)
P = MODEL.denoiser.prompt_tokens
CLOSE = 2e-4  # float32 through two layers, differently fused


@pytest.mark.smoke
def test_streaming_is_scanning():
    clip = frames(RING + 6)
    pictures, _, state = play(ONE, clip)
    scan: Any = make_scan(MODEL, ONE)
    lowered = scan.lower(params(), start(ONE), clip)
    program = lowered.compile()
    scanned_state, scanned = program(params(), start(ONE), clip)
    # A value next to a rounding edge may fall on its other side.
    assert np.abs(pictures.astype(int) - np.asarray(scanned)).max() <= 1
    assert len(np.unique(pictures)) > 50
    np.testing.assert_allclose(scanned_state.styled, state.styled, atol=CLOSE)
    np.testing.assert_array_equal(scanned_state.cache.age, state.cache.age)
    np.testing.assert_array_equal(scanned_state.frame, [len(clip)])


@pytest.mark.smoke
def test_a_stream_whose_ring_wraps_is_one_long_attention():
    clip = frames(2 * RING + 5)
    count = len(clip)
    state = start(ONE)
    key = state.key[0]
    _, latents, _ = play(ONE, clip, state)

    def whole_clip(params, clip, key, prompt):
        source = codec.encode(
            params["codec"], clip[None].astype(jnp.float32) / 255, MODEL.codec
        )
        noise = jax.random.normal(jax.random.fold_in(key, 0), CELLS)
        noise = jnp.broadcast_to(noise[None], (count, *CELLS))
        everywhere = jnp.ones((1, count))
        return denoise_clip(
            params["denoiser"],
            MODEL,
            noise[None],
            source,
            everywhere > 0,
            0 * everywhere,
            everywhere,
            prompt,
            jnp.zeros(1, bool),
        )

    operands = (params(), clip[:, 0], key, toy_model.prompts(1))
    compiled = jax.jit(whole_clip).lower(*operands)
    expected = compiled.compile()(*operands)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(latents[:, 0], expected[0], atol=CLOSE)


@pytest.mark.parametrize("stand_in", [False, True])
def test_the_last_styled_frame_may_stand_in_for_a_source(stand_in):
    """By two streams that have shown different pictures and remember the same."""
    denoiser = dataclasses.replace(MODEL.denoiser, stand_in=stand_in)
    model = dataclasses.replace(MODEL, denoiser=denoiser)
    stream = settings(hold=0)
    state = play(stream, frames(2))[2]
    other = dataclasses.replace(state, styled=1 - state.styled)
    step = jax.jit(partial(style_latent, weights(stream), model=model, stream=stream))
    nothing = jnp.zeros((1, *CELLS))
    for arrived, differs in ((True, False), (False, stand_in)):
        found, wanted = (
            step(one, nothing, jnp.array([arrived])).styled for one in (state, other)
        )
        assert bool(jnp.abs(found - wanted).max() > 0.01) == differs
    # It is kept for as long as it takes.
    nobody = jnp.array([False])
    gone = step(state, nothing, nobody)
    np.testing.assert_array_equal(
        gone.source, state.styled if stand_in else state.source
    )
    np.testing.assert_array_equal(step(gone, nothing, nobody).source, gone.source)


def test_a_batch_of_two_is_two_streams():
    clip = frames(RING + 4, batch=2)
    state = start(TWO)
    singles = [of_stream(state, number) for number in range(2)]
    _, together, _ = play(TWO, clip, state)
    assert np.abs(together[:, 0] - together[:, 1]).max() > 0.1
    for number, single in enumerate(singles):
        _, alone, _ = play(ONE, clip[:, number : number + 1], single)
        np.testing.assert_allclose(together[:, number], alone[:, 0], atol=CLOSE)


def test_reset_is_a_fresh_open_and_only_for_the_chosen_streams():
    clip = frames(2 * RING + 4, batch=2)
    half = RING + 3
    unbroken = play(TWO, clip)[1]
    _, _, state = play(TWO, clip[:half])
    state = reset(state, jnp.array([False, True]), TWO.hold)
    # Noise is drawn anew, so that a style that has several looks may take another.
    keys = jax.random.key_data(state.key)
    kept = (keys == jax.random.key_data(start(TWO).key)).all(axis=1)
    np.testing.assert_array_equal(kept, [True, False])
    opened = dataclasses.replace(start(TWO), key=jnp.copy(state.key))
    fresh = play(TWO, clip[half:], opened)[1]
    np.testing.assert_array_equal(state.frame, [half, 0])
    np.testing.assert_array_equal(state.present, [True, False])
    np.testing.assert_array_equal(state.missing, [0, TWO.hold])
    assert (np.asarray(state.cache.age)[1] == EMPTY).all()
    assert (np.asarray(state.cache.age)[0, 1:] != EMPTY).all()
    found = play(TWO, clip[half:], state)[1]
    # The cursor stands elsewhere: sums over slots come in another order.
    np.testing.assert_allclose(found[:, 1], fresh[:, 1], atol=CLOSE)
    np.testing.assert_allclose(found[:, 0], unbroken[half:, 0], atol=CLOSE)
    assert np.abs(found[0, 1] - unbroken[half, 1]).max() > 0.01


def test_a_new_prompt_touches_the_prompt_slots_of_its_streams_alone():
    clip = frames(RING + 4, batch=2)
    unbroken = play(TWO, clip)[1]
    _, _, state = play(TWO, clip[:RING])
    words = toy_model.prompts(2, seed=5)
    changed = set_prompt(params(), MODEL, state, words, jnp.array([True, False]))
    before, after = jax.device_get((state, changed))
    for name in ("k", "v"):
        a, b = getattr(before.cache, name), getattr(after.cache, name)
        differs = (a != b).any(axis=(3, 4))
        assert differs[:, 0, :P].all()
        assert not differs[:, 1].any() and not differs[:, :, P:].any()
    for field in dataclasses.fields(StreamState):
        if field.name not in ("cache", "key"):
            fields = (getattr(one, field.name) for one in (before, after))
            jax.tree.map(np.testing.assert_array_equal, *fields)
    found = play(TWO, clip[RING:], changed)[1]
    np.testing.assert_array_equal(found[:, 1], unbroken[RING:, 1])
    assert (np.abs(found[:, 0] - unbroken[RING:, 0]).max(axis=(1, 2, 3)) > 0.01).all()


def test_a_prompt_for_all_streams_is_that_of_a_fresh_stream():
    words = toy_model.prompts(2, seed=5)
    changed = set_prompt(params(), MODEL, start(TWO), words)
    fresh = open_stream(params(), MODEL, TWO, words, jax.random.key(0))
    np.testing.assert_allclose(changed.cache.k, fresh.cache.k, atol=1e-6)
    np.testing.assert_allclose(changed.cache.v, fresh.cache.v, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 384), (384,), (3, 384)])
def test_prompts_that_do_not_fit_the_batch_are_named(shape):
    with pytest.raises(ValueError, match="prompt.shape="):
        set_prompt(params(), MODEL, start(TWO), jnp.zeros(shape))
    with pytest.raises(ValueError, match="prompt.shape="):
        open_stream(params(), MODEL, TWO, jnp.zeros(shape), jax.random.key(0))


@pytest.mark.parametrize("at", [0, 4])
def test_a_frame_is_seen_from_the_next_ones_and_then_forgotten(at):
    clip = frames(at + REACH + 4)
    other = clip.copy()
    other[at] = 255 - other[at]
    before, after = play(ONE, clip)[1], play(ONE, other)[1]
    influence = np.abs(before - after).max(axis=(1, 2, 3, 4))
    assert not influence[:at].any(), "the future has no influence"
    # Directly for `ring` frames, then handed on by the features of each layer.
    assert (influence[at : at + RING + 1] > 1e-4).all()
    assert (influence[at : at + REACH + 1] > 0).all()
    assert not influence[at + REACH + 1 :].any(), "nothing lasts for ever"


@pytest.mark.smoke
def test_a_stream_compiles_once_runs_in_place_and_asks_nothing_of_the_host():
    step = make_step(MODEL, ONE)
    weights = jax.device_put(params())
    clip = jax.device_put(list(frames(RING + 3)))
    state = start(ONE)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    state, _ = step(weights, state, clip[0])
    with jax.transfer_guard("disallow"):
        for source in clip[1:]:
            old = state
            state, picture = step(weights, state, source)
            assert old.cache.k.is_deleted() and old.cache.v.is_deleted()
    assert [stage._cache_size() for stage in step.stages.values()] == [1, 1, 1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
    assert picture.shape == clip[0].shape and picture.dtype == jnp.uint8


def test_noise_can_be_new_for_every_frame_and_stream_and_the_same_for_the_same_seed():
    clip = np.repeat(frames(1), 3, axis=0)
    clip = np.repeat(clip, 2, axis=1)
    amnesic = settings(batch=2, memory=False, fixed_noise=False)
    state = start(amnesic)
    state = set_prompt(
        params(), MODEL, state, jnp.repeat(toy_model.prompts(1), 2, axis=0)
    )
    latents = play(amnesic, clip, state)[1].reshape(6, -1)
    gaps = np.abs(latents[:, None] - latents[None]).max(axis=-1)
    assert (gaps[~np.eye(6, dtype=bool)] > 0.01).all()
    np.testing.assert_array_equal(play(ONE, clip[:, :1])[1], play(ONE, clip[:, :1])[1])
    other = play(ONE, clip[:, :1], start(ONE, seed=1))[1]
    assert np.abs(other - play(ONE, clip[:, :1])[1]).max() > 0.01


def test_one_noise_for_all_frames_makes_still_pictures_of_still_sources():
    still = settings(batch=1, memory=False)
    latents = play(still, np.repeat(frames(1), 3, axis=0))[1]
    np.testing.assert_array_equal(latents[1:], latents[:-1])


def test_bfloat16_stays_close_to_float32():
    clip = frames(RING + 3)
    full = play(ONE, clip)[1]
    half = play(settings(dtype="bfloat16"), clip)[1]
    # Some twenty roundings of 2 ** -9 each in sequence; weights as wild as these
    # double what a trained model would make of them.
    error = np.sqrt(np.square(half - full).mean() / np.square(full).mean())
    assert error < 0.08


def test_the_unrolled_program_is_the_rolled_one():
    clip = frames(RING + 2)
    found = play(settings(unroll=True), clip)[1]
    np.testing.assert_allclose(found, play(ONE, clip)[1], atol=CLOSE)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "change, named",
    [
        ({"height": 100}, "100x64"),
        ({"width": 0}, "64x0"),
        ({"height": -64}, "-64x64"),
        ({"steps": 3}, "steps=3"),
        ({"steps": 0}, "steps=0"),
        ({"commit": "never"}, "commit='never'"),
        ({"batch": 0}, "batch=0"),
        ({"hold": -1}, "hold=-1"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"kernels": "cuda"}, "kernels='cuda'"),
        ({"attention": "cuda"}, "attention='cuda'"),
    ],
)
def test_impossible_settings_are_one_line(change, named):
    with pytest.raises(MirageError, match=named) as raised:
        dataclasses.replace(ONE, **change)
    assert "\n" not in str(raised.value)


def test_a_source_of_the_wrong_size_is_named():
    with pytest.raises(ValueError, match=r"\(1, 32, 64, 3\)"):
        jax.eval_shape(
            make_step(MODEL, ONE),
            params(),
            start(ONE),
            jnp.zeros((1, 32, 64, 3), jnp.uint8),
        )
