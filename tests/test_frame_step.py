"""The chain of programs that makes a frame is the step itself, in parts."""

import jax
import numpy as np
import pytest
import toy_model
from toy_model import MODEL, frames, params, settings, start

from mirage_jax.frame_compiler import load_convolutions
from mirage_jax.frame_step import of_decoder, of_encoder
from mirage_jax.stream import decode_frame, make_scan, make_step, stream_step


@pytest.mark.parametrize("change", [{}, {"commit": "lagged", "steps": 2}])
def test_the_chain_makes_the_pictures_of_the_step(change):
    stream, clip = settings(**change), frames(4)
    whole = jax.jit(stream_step, static_argnames=("model", "stream"))
    step, held = toy_model.step_of(stream), toy_model.weights(stream)
    apart, together = start(stream), start(stream)
    for source in clip:
        apart, found = step(held, apart, source, np.ones(1, bool))
        together, wanted = whole(held, together, source, model=MODEL, stream=stream)
        # Compiled apart, the last bit of a latent may differ, and so a byte by one.
        np.testing.assert_allclose(
            np.asarray(found, int), np.asarray(wanted, int), atol=1
        )
    # So may K, and after some frames its last digits: it is of unit spread.
    np.testing.assert_allclose(apart.cache.k, together.cache.k, atol=1e-4)


def test_a_stage_gets_the_weights_that_it_reads_and_no_others():
    held = params()
    encoder, decoder = of_encoder(held)["codec"], of_decoder(held)["codec"]
    assert set(encoder) | set(decoder) == set(held["codec"])
    assert "decoder" not in encoder and "encoder" not in decoder
    lowered = make_step(MODEL, settings()).lower(held, start(settings()), frames(1)[0])
    counts = {
        name: len(jax.tree.leaves(stage.in_avals))
        for name, stage in lowered.stages.items()
    }
    assert counts["encode"] == len(jax.tree.leaves(encoder)) + 1
    assert counts["decode"] == len(jax.tree.leaves(decoder)) + 2


def test_more_than_a_picture_can_be_shown():
    def show(params, styled, place, *, model, stream):
        picture = decode_frame(params, styled, place, model=model, stream=stream)
        return picture, styled.mean()

    stream = settings()
    state, (picture, mean) = make_step(MODEL, stream, show)(
        params(), start(stream), frames(1)[0]
    )
    assert picture.shape == frames(1)[0].shape
    np.testing.assert_allclose(mean, np.mean(state.styled), rtol=1e-5)


def test_convolutions_are_loaded_before_a_graph_holds_one(monkeypatch):
    loaded = []
    real = jax.lax.conv_general_dilated

    def convolve(*operands, **named):
        loaded.append(operands[0].shape)
        return real(*operands, **named)

    monkeypatch.setattr(jax.lax, "conv_general_dilated", convolve)
    load_convolutions.cache_clear()
    make_step(MODEL, settings())
    assert not loaded, "a CPU has no graph"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for make in (make_step, make_scan):
        load_convolutions.cache_clear()
        make(MODEL, settings())
    assert len(loaded) == 2
