"""What a pass must do at least, against counts by hand."""

import jax
import pytest

from mirage_jax.config import MODELS
from mirage_jax.cost_model import (
    STAGES,
    count_parameters,
    floor_seconds,
    frame_tokens,
    pass_stages,
)
from mirage_jax.denoiser import init_denoiser
from mirage_jax.stream import StreamConfig

BIG = MODELS["lsd_880m"]
D, L, N, P, RING = 1536, 30, 256, 32, 7


def stages(**changes):
    found = pass_stages(BIG, StreamConfig(**changes))
    assert tuple(stage.name for stage in found) == STAGES
    return {stage.name: stage for stage in found}


def test_every_parameter_belongs_to_a_stage():
    for model in MODELS.values():
        shapes = jax.eval_shape(lambda m=model: init_denoiser(jax.random.key(0), m))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert count_parameters(model) == count
        found = pass_stages(model, StreamConfig())
        assert sum(stage.parameters for stage in found) == count


def test_the_880m_model_is_of_that_size():
    assert count_parameters(BIG) == 885_500_144
    assert frame_tokens(BIG, StreamConfig()) == N
    assert frame_tokens(BIG, StreamConfig(1024, 1024)) == 1024


def test_a_pass_of_the_880m_model_by_hand():
    found = stages()
    assert found["qkv"].flops == 2 * N * D * 3 * D * L
    assert found["up"].weight_bytes == 2 * (4 * D * D + 4 * D) * L
    keys = P + (RING + 1) * N
    assert found["attention"].flops == 4 * N * keys * D * L
    assert found["attention"].cache_bytes == 2 * 2 * keys * D * L
    assert found["commit"].cache_bytes == 2 * 2 * N * D * L
    cells = 32 * 32
    convolved = 9 * (128 * 256 + 256 * 256 + 256 * 32)
    dense = D * (128 + 256)
    assert found["head"].flops == 2 * (cells * convolved + N * dense)
    assert found["prompt"].parameters > 0
    assert found["prompt"].bytes_moved == found["prompt"].flops == 0


def test_8_bits_halve_the_bytes_of_dense_layers_and_double_their_speed():
    half, eight = stages(), stages(eight_bit="int8")
    up = eight["up"]
    assert up.parameters == half["up"].parameters and up.flops == half["up"].flops
    assert up.weight_bytes == L * (4 * D * D + (2 + 4) * 4 * D)  # bias and scale
    assert up.seconds(1e30, 1.0) == half["up"].seconds(1e30, 1.0) / 2
    assert eight["attention"] == half["attention"] and eight["stem"] == half["stem"]


@pytest.mark.parametrize("batch, anchor", [(3, False), (1, True)])
def test_streams_share_weights_and_keep_caches_of_their_own(batch, anchor):
    one, more = stages(), stages(batch=batch, anchor=anchor)
    assert more["qkv"].weight_bytes == one["qkv"].weight_bytes
    assert more["qkv"].flops == batch * one["qkv"].flops
    keys = P + (RING + 1 + anchor) * N
    assert more["attention"].flops == batch * 4 * N * keys * D * L


def test_the_floor_is_the_larger_of_bytes_and_work_stage_by_stage():
    found = pass_stages(BIG, StreamConfig())
    read = sum(stage.bytes_moved for stage in found)
    work = sum(stage.flops for stage in found)
    assert floor_seconds(found, 1.0, 1e30) == pytest.approx(read)
    assert floor_seconds(found, 1e30, 1.0) == pytest.approx(work)
    assert floor_seconds(found, 3e12, 7e14) > max(read / 3e12, work / 7e14)
