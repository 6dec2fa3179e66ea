"""What a frame must do at least: against counts by hand, arrays and XLA's count."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from mirage_jax.chips import Chip
from mirage_jax.codec import decode, encode, init_codec
from mirage_jax.codec_cost import codec_stages
from mirage_jax.config import MODELS, CodecConfig, DenoiserConfig, ModelConfig
from mirage_jax.cost_model import (
    STAGES,
    convolution_flops,
    count_parameters,
    floor_seconds,
    pass_stages,
)
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import device_weights
from mirage_jax.frame_cost import frame_floor_ms, frame_parts
from mirage_jax.stream import open_stream, stream_step
from mirage_jax.stream_config import StreamConfig

BIG = MODELS["lsd_880m"]
D, L, N, P, RING = 1536, 30, 256, 32, 7


def chip(bandwidth=1e30, rate=1e30, l2=1e30):
    rates = {"bfloat16": rate, "float32": rate, "int8": 4 * rate}
    return Chip("of a test", bandwidth, rates, 2**40, l2, ())


def stages(model=BIG, frames=1, predicts=True, **changes):
    found = pass_stages(model, StreamConfig(**changes), frames, predicts)
    assert tuple(stage.name for stage in found) == STAGES
    return {stage.name: stage for stage in found}


def held_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_belongs_to_a_stage(name):
    model, key = MODELS[name], jax.random.key(0)
    shapes = jax.eval_shape(lambda: init_denoiser(key, model))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count_parameters(model) == count
    for eight_bit in (None, "int8"):
        found = pass_stages(model, StreamConfig(eight_bit=eight_bit))
        assert sum(stage.parameters for stage in found) == count
    codec = jax.eval_shape(lambda: init_codec(key, model.codec))
    for stage in codec_stages(model, StreamConfig()):
        part = codec[f"{stage.name}r"]
        assert stage.parameters == sum(leaf.size for leaf in jax.tree.leaves(part))


@pytest.mark.parametrize("eight_bit", [None, "int8", "float8_e4m3fn"])
def test_a_pass_reads_the_weights_that_are_held_but_for_those_of_the_opening(eight_bit):
    stream = StreamConfig(eight_bit=eight_bit)
    key = jax.random.key(0)
    held = jax.eval_shape(
        lambda: device_weights({"denoiser": init_denoiser(key, BIG)}, stream)
    )["denoiser"]
    read = sum(stage.weight_bytes for stage in pass_stages(BIG, stream))
    opening = held["prompt"], held["blocks"]["prompt"], held["conditioning"]
    assert read == held_bytes(held) - sum(map(held_bytes, opening))


def test_the_880m_model_is_of_that_size():
    assert count_parameters(BIG) == 885_500_144
    assert BIG.denoiser.frame_tokens(StreamConfig().grid) == N
    assert BIG.denoiser.frame_tokens(StreamConfig(1024, 1024).grid) == 1024


def test_a_pass_of_the_880m_model_by_hand():
    found = stages()
    assert found["qkv"].flops == 2 * N * D * 3 * D * L
    assert found["up"].weight_bytes == 2 * (4 * D * D + 4 * D) * L
    keys = P + (RING + 1) * N
    assert found["attention"].flops == 4 * N * keys * D * L
    assert found["attention"].cache_bytes == 2 * 2 * keys * D * L
    assert found["commit"].cache_bytes == 2 * 2 * N * D * L
    inside = (3 * 32 - 2) ** 2  # taps of 3x3 on the 32x32 grid
    convolved = inside * (128 * 256 + 256 * 256 + 256 * 32)
    dense = N * D * (128 + 256)
    assert found["head"].flops == 2 * (convolved + dense)
    assert found["prompt"].parameters > 0
    assert found["prompt"].bytes_moved(chip()) == found["prompt"].flops == 0


def test_a_convolution_does_nothing_with_the_padding():
    assert convolution_flops((1, 1, 5, 7), (4, 6)) == 2 * 5 * 7 * 24
    assert convolution_flops((3, 3, 1, 1), (1, 1)) == 2  # the middle tap alone
    assert convolution_flops((3, 3, 1, 1), (2, 3)) == 2 * 4 * 7


def test_8_bits_halve_the_bytes_of_dense_layers_and_run_at_their_own_rate():
    half, eight = stages(), stages(eight_bit="int8")
    up = eight["up"]
    assert up.parameters == half["up"].parameters and up.flops == half["up"].flops
    assert up.weight_bytes == L * (4 * D * D + (2 + 4) * 4 * D)  # bias and scale
    slow = chip(rate=1.0)
    assert up.seconds(slow) == half["up"].seconds(slow) / 4
    assert eight["attention"] == half["attention"] and eight["stem"] == half["stem"]


@pytest.mark.parametrize("batch, anchor", [(3, False), (1, True)])
def test_streams_share_weights_and_keep_caches_of_their_own(batch, anchor):
    one, more = stages(), stages(batch=batch, anchor=anchor)
    assert more["qkv"].weight_bytes == one["qkv"].weight_bytes
    assert more["qkv"].flops == batch * one["qkv"].flops
    keys = P + (RING + 1 + anchor) * N
    assert more["attention"].flops == batch * 4 * N * keys * D * L
    assert more["attention"].cache_bytes == batch * 4 * keys * D * L


def test_what_l2_cannot_hold_is_written_and_read():
    up = stages()["up"]
    one = 2 * N * 4 * D  # bytes that a layer hands on
    assert up.handed_on == (one,) * L
    assert up.bytes_moved(chip(l2=one)) == up.weight_bytes
    assert up.bytes_moved(chip(l2=one - 1)) == up.weight_bytes + 2 * L * one


def test_the_floor_is_the_larger_of_bytes_and_work_stage_by_stage():
    found = pass_stages(BIG, StreamConfig())
    read = sum(stage.bytes_moved(chip()) for stage in found)
    work = sum(stage.flops for stage in found)
    assert floor_seconds(found, chip(bandwidth=1.0)) == pytest.approx(read)
    assert floor_seconds(found, chip(rate=1.0)) == pytest.approx(work)
    both = floor_seconds(found, chip(3e12, 7e14))
    assert both > max(read / 3e12, work / 7e14)


def test_the_codec_by_hand():
    codec = CodecConfig(8, (4, 6, 10), (0, 0, 0), (10, 6, 4, 2), (0, 0, 0, 0))
    model = dataclasses.replace(MODELS["test"], codec=codec)
    encoded, decoded = codec_stages(model, StreamConfig(64, 32, batch=2))
    grids = {side: convolution_flops((3, 3, 1, 1), side) for side in [(16, 8), (4, 2)]}
    work = grids[16, 8] * 48 * 4 + 2 * 32 * (16 * 6) + 2 * 8 * (24 * 10)
    assert encoded.flops == 2 * (work + grids[4, 2] * 10 * 8)
    assert encoded.handed_on == tuple(4 * n for n in (128 * 4, 32 * 6, 8 * 10, 8 * 8))
    pictures, latents = 2 * 64 * 32 * 3, 4 * 2 * 4 * 2 * 8
    assert encoded.frame_bytes == decoded.frame_bytes == pictures + latents


@pytest.mark.parametrize(
    "steps, commit, passes",
    [
        (1, "merged", {"pass": 1}),
        (4, "merged", {"pass": 4}),
        (1, "lagged", {"lagged_pass": 1}),
        (4, "lagged", {"lagged_pass": 1, "pass": 3}),
        (2, "clean", {"pass": 2, "clean_pass": 1}),
    ],
)
def test_the_passes_of_a_frame(steps, commit, passes):
    stream = StreamConfig(64, 64, steps=steps, commit=commit)
    parts = frame_parts(MODELS["test"], stream)
    expected = {"encode": 1} | passes | {"decode": 1}
    assert {part.name: part.times for part in parts} == expected
    ceilings = chip(1e9, 1e9)
    together = sum(part.times * part.floor_ms(ceilings) for part in parts)
    assert frame_floor_ms(parts, ceilings) == pytest.approx(together)


def test_a_lagged_pass_carries_two_frames_and_a_clean_one_ends_with_its_commit():
    one, lagged, clean = stages(), stages(frames=2), stages(predicts=False)
    assert lagged["qkv"].flops == 2 * one["qkv"].flops
    assert lagged["qkv"].weight_bytes == one["qkv"].weight_bytes
    assert lagged["commit"].cache_bytes == 2 * one["commit"].cache_bytes
    assert clean["qkv"] == one["qkv"] and clean["commit"] == one["commit"]
    assert clean["head"].flops == clean["head"].weight_bytes == 0
    for name in ("attention", "out", "up", "down"):
        assert clean[name].flops * L == one[name].flops * (L - 1)
    assert clean["up"].weight_bytes * L == one["up"].weight_bytes * (L - 1)


# Wide enough for products to be nearly all of the work, as XLA counts the rest too, and
# with a ring long enough for attention to be a good part of it.
WIDE = ModelConfig(
    CodecConfig(8, (16, 24, 32), (1, 1, 1), (32, 24, 16, 16), (1, 1, 1, 1)),
    DenoiserConfig(256, 2, 4, 2, 4, 16, 32, 8, 32, 15),
)


def xla_flops(call, *operands):
    """Of the program as it is traced: compiling takes long and adds nothing here."""
    counted = jax.jit(call).lower(*operands).cost_analysis()
    assert counted is not None
    return counted["flops"]


@pytest.fixture(scope="module")
def weights():
    key = jax.random.key(0)
    return jax.eval_shape(
        lambda: {
            "codec": init_codec(key, WIDE.codec),
            "denoiser": init_denoiser(key, WIDE),
        }
    )


def test_work_of_the_codec_is_what_xla_counts(weights):
    stream = StreamConfig(128, 96, batch=2, dtype="float32")
    shapes = {"encode": (2, 128, 96, 3), "decode": (2, 8, 6, 8)}
    for stage in codec_stages(WIDE, stream):
        call = {"encode": encode, "decode": decode}[stage.name]
        call = partial(call, config=WIDE.codec)
        x = jax.ShapeDtypeStruct(shapes[stage.name], jnp.float32)
        ratio = xla_flops(call, weights["codec"], x) / stage.flops
        assert 1 <= ratio < 1.03


@pytest.mark.parametrize(
    "steps, commit", [(1, "merged"), (2, "merged"), (2, "lagged"), (1, "clean")]
)
def test_work_of_a_whole_frame_is_what_xla_counts(weights, steps, commit):
    stream = StreamConfig(
        192, 192, steps, commit, batch=2, anchor=True, dtype="float32", attention="xla"
    )
    state = jax.eval_shape(
        lambda: open_stream(
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), weights),
            WIDE,
            stream,
            jnp.zeros((2, 384)),
            jax.random.key(0),
        )
    )
    source = jax.ShapeDtypeStruct((2, 192, 192, 3), jnp.uint8)
    step = partial(stream_step, model=WIDE, stream=stream)
    parts = frame_parts(WIDE, stream)
    work = sum(p.times * sum(stage.flops for stage in p.stages) for p in parts)
    ratio = xla_flops(step, weights, state, source) / work
    assert 1 <= ratio < 1.03
