"""Weights on the device: 8 bits, and streams that run on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import MODEL, RING, frames, of_stream, params, play, settings, start

from mirage_jax.device_weights import device_weights, held_weights, layers_apart
from mirage_jax.errors import MirageError
from mirage_jax.stream import make_step, reset
from mirage_jax.stream_driver import StreamDriver
from mirage_jax.transformer import EIGHT_BIT
from mirage_jax.weights import Model

FORMATS = ["int8", "float8_e4m3fn"]
# Relative, of latents of the two-layer toy. A rounding of a row's numbers is 1/254 of
# their largest at most in int8, 1/16 of themselves in float8 (3 bits of mantissa);
# there are 8 of them a layer, and the residual stream, which gets none, is larger than
# what the branches add. Measured 0.005 and 0.018.
CLOSE = {"int8": 0.015, "float8_e4m3fn": 0.05}
# Rounding is not continuous: numbers that differ in the last bit of float32 may fall
# on two sides of an edge, so that two programs of one stream differ by some roundings.
SAME = {"int8": 0.01, "float8_e4m3fn": 0.04}


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("to", FORMATS)
def test_a_stream_in_8_bits_is_close_to_the_same_in_float32(to):
    clip = frames(RING + 3)
    found = play(settings(eight_bit=to), clip)
    wanted = play(settings(), clip)
    assert 0 < error(found[1], wanted[1]) < CLOSE[to]
    # The memory too: K and V of the last layer have gone through all of it.
    last = MODEL.denoiser.layers - 1
    for kept, right in zip(found[2:], wanted[2:], strict=True):
        assert error(kept.cache.v[last], right.cache.v[last]) < CLOSE[to]


@pytest.mark.parametrize("to", FORMATS)
def test_batch_and_reset_hold_in_8_bits(to):
    one, two = settings(eight_bit=to), settings(eight_bit=to, batch=2)
    clip = frames(RING + 4, batch=2)
    state = start(two)
    singles = [of_stream(state, number) for number in range(2)]
    _, together, state = play(two, clip, state)
    assert error(together[:, 0], together[:, 1]) > 0.3
    for number, single in enumerate(singles):
        _, alone, _ = play(one, clip[:, number : number + 1], single)
        assert error(together[:, number], alone[:, 0]) < SAME[to]
    state = reset(state, jnp.array([False, True]), two.hold)
    # A reset draws noise anew.
    opened = dataclasses.replace(start(two), key=jnp.copy(state.key))
    fresh = play(two, clip, opened)[1]
    again = play(two, clip, state)[1]
    assert error(again[:, 1], fresh[:, 1]) < SAME[to]
    assert error(again[:2, 0], together[:2, 0]) > 2 * SAME[to]


@pytest.mark.parametrize("to", FORMATS)
def test_what_8_bits_make_faster_is_in_8_bits_and_nothing_else(to):
    stream = settings(eight_bit=to, dtype="bfloat16")
    found = device_weights(params(), stream)
    sizes = params()["denoiser"]["blocks"]
    for name in EIGHT_BIT:
        layers, inputs, outputs = sizes[name]["kernel"].shape
        layer = found["denoiser"]["blocks"][name]
        assert layer["values"].shape == (layers, outputs, inputs)
        assert layer["values"].dtype == jnp.dtype(to)
        assert layer["scale"].shape == (layers, outputs)
        assert layer["scale"].dtype == jnp.float32
        wide = layer["values"].astype(jnp.float32) * layer["scale"][..., None]
        kernel = sizes[name]["kernel"].transpose(0, 2, 1)
        # Half a step of int8 is 1/254 of an output's largest weight, of float8 1/16
        # of the weight, at most the same of the largest.
        largest = jnp.abs(kernel).max(axis=-1, keepdims=True)
        most = {"int8": 1 / 253, "float8_e4m3fn": 1 / 16}[to]
        assert (jnp.abs(wide - kernel) <= most * largest).all()
    block = found["denoiser"]["blocks"]
    assert block["prompt"]["kernel"].dtype == jnp.bfloat16
    assert block["out"]["kernel"].dtype == jnp.bfloat16
    assert block["q_scale"].dtype == found["denoiser"]["slot_bias"].dtype == jnp.float32
    assert found["codec"]["statistics"]["mean"].dtype == jnp.float32
    assert found["denoiser"]["head"]["Conv_0"]["kernel"].dtype == jnp.bfloat16


def test_narrowed_weights_change_nothing():
    stream = settings(dtype="bfloat16")
    clip = frames(3)
    wide = play(stream, clip)
    narrow, state = device_weights(params(), stream), start(stream)
    step = toy_model.step_with(narrow, stream)
    for source, latents in zip(clip, wide[1], strict=True):
        state, _ = step(narrow, state, source, np.ones(1, bool))
        # The same roundings, differently fused.
        assert error(np.asarray(state.styled), latents) < 0.01


def test_a_driver_takes_float32_weights_into_8_bits():
    stream = settings(eight_bit="int8")
    driver = StreamDriver(Model(MODEL, params(), "0" * 64), stream)
    driver.open(np.asarray(toy_model.prompts(1))[0], 0)
    driver.set_prompt(np.asarray(toy_model.prompts(1, seed=3))[0])
    picture = driver.step(frames(1)[0])
    assert picture.shape == (1, toy_model.SIDE, toy_model.SIDE, 3)


def test_what_cannot_be_is_named():
    with pytest.raises(MirageError, match="eight_bit='int4'"):
        settings(eight_bit="int4")
    with pytest.raises(MirageError, match="linear='cuda'"):
        settings(linear="cuda")
    blocks = dict(params()["denoiser"]["blocks"])
    blocks["up"] = {"kernel": jnp.zeros((2, 40, 160)), "bias": jnp.zeros((2, 160))}
    odd = {"codec": {}, "denoiser": {"blocks": blocks}}
    with pytest.raises(MirageError, match="'up' of this model is 40 x 160"):
        device_weights(odd, settings(eight_bit="int8"))


def test_8_bit_streams_need_8_bit_weights():
    stream = dataclasses.replace(settings(), eight_bit="int8")
    with pytest.raises(Exception, match="values"):
        jax.eval_shape(make_step(MODEL, stream), params(), start(stream), frames(1)[0])


@pytest.mark.parametrize("to", [None, *FORMATS])
def test_layers_apart_are_the_same_stream(to):
    stream = settings(eight_bit=to, commit="lagged", unroll=True)
    held, clip = device_weights(params(), stream), frames(3)
    apart = layers_apart(held)
    assert isinstance(apart["denoiser"]["blocks"]["up"]["bias"], tuple)
    results = []
    for weights in (held, apart):
        state, step = start(stream), toy_model.step_with(weights, stream)
        for source in clip:
            state, _ = step(weights, state, source, np.ones(1, bool))
        results.append(np.asarray(state.styled))
    # The same sums, perhaps in another order.
    assert error(*results) < (1e-5 if to is None else SAME[to])


def test_weights_are_held_as_this_device_reads_them_best(monkeypatch):
    cases = (
        *(("cpu", None, tuple), ("cpu", True, tuple), ("cpu", False, jax.Array)),
        ("gpu", None, jax.Array),
    )
    for platform, unroll, kind in cases:
        stream = settings(unroll=unroll)
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        blocks = held_weights(params(), stream)["denoiser"]["blocks"]
        assert isinstance(blocks["qkv"]["kernel"], kind)
        assert isinstance(blocks["q_scale"], jax.Array)
