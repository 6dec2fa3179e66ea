"""The Triton kernel of frame attention, interpreted on the CPU, is the reference."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.device import Device
from pallas_kernels.frame_attention import frame_attention, kernel, reference, triton
from pallas_kernels.frame_attention.config import (
    Config,
    default_config,
    programs,
    search_space,
    shared_memory,
)
from pallas_kernels.frame_attention.problem import Problem
from pallas_kernels.frame_attention.specs import BARS, DEFAULT_MODEL, SMALL, SPECS

RTX_3090 = Device("NVIDIA GeForce RTX 3090", (8, 6), 82)
A100 = Device("NVIDIA A100-SXM4-80GB", (8, 0), 108)
H100 = Device("NVIDIA H100 80GB HBM3", (9, 0), 132)
CARDS = [RTX_3090, A100, H100]

# Float32 operands: only the order of additions differs, over at most 500 terms of
# order 1 and softmax weights that sum to 1.
EXACT = 3e-6
# bfloat16 keeps 8 bits: the weights are rounded before the product with V, the output
# once more, each by at most 2**-9 of a value below 4.
HALF = 0.02

# Small blocks, so that every loop has several turns; a split of slots, an idle share.
CONFIGS = {
    "whole": Config(16, 16, 1, 4, 2),
    "split": Config(16, 16, 2, 4, 2),
    "wide_blocks": Config(32, 64, 3, 8, 3),
    "more_shares_than_slots": Config(16, 32, 5, 4, 1),
}


def attend(spec, config, operands, layer=None):
    """The kernel by the interpreter, compiled."""
    call = functools.partial(
        triton.attend,
        prompt_tokens=spec.problem.prompt,
        config=config,
        interpret=True,
    )
    if spec.problem.layers and layer is None:
        layer = spec.problem.layers - 1
    return jax.jit(call)(*operands, layer=layer)


def expected(spec, operands, layer=None):
    q, k, v, bias = operands
    if spec.problem.layers:
        layer = spec.problem.layers - 1 if layer is None else layer
        k, v, bias = k[layer], v[layer], bias[layer]
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    return reference.attend(q, k, v, bias, prompt_tokens=spec.problem.prompt)


# Every shape with and without a split; the other two where they can go wrong.
PAIRS = [
    *itertools.product(SMALL, ("whole", "split")),
    *itertools.product(
        ("odd_tokens", "clip"), ("wide_blocks", "more_shares_than_slots")
    ),
]


@pytest.mark.parametrize(("name", "cut"), PAIRS)
def test_every_small_shape_is_the_reference(name, cut):
    spec, config = SMALL[name], CONFIGS[cut]
    operands = spec.operands(seed=1)
    found = attend(spec, config, operands)
    assert found.dtype == operands[0].dtype
    tolerance = HALF if spec.problem.itemsize == 2 else EXACT
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected(spec, operands), atol=tolerance
    )


def test_each_layer_is_read_in_place():
    spec = SMALL["layers"]
    operands = spec.operands(seed=2)
    for layer in range(spec.problem.layers):
        found = attend(spec, CONFIGS["split"], operands, jnp.int32(layer))
        wanted = expected(spec, operands, layer)
        np.testing.assert_allclose(found, wanted, atol=EXACT)


def test_a_wrapped_ring_is_the_same_ring_in_another_order():
    """Slots in any order, each with its bias, give the same output."""
    spec = SMALL["odd_tokens"]
    p = spec.problem
    q, k, v, bias = spec.operands(seed=3)
    before = attend(spec, CONFIGS["split"], (q, k, v, bias))
    for order in itertools.permutations(range(p.frames)):

        def turn(x, order=order):
            head, frames = x[:, : p.prompt], x[:, p.prompt :]
            frames = frames.reshape(p.batch, p.frames, p.keys, *x.shape[2:])
            frames = frames[:, np.array(order)].reshape(x[:, p.prompt :].shape)
            return jnp.concatenate([head, frames], axis=1)

        turned = jnp.concatenate([bias[..., :1], bias[..., 1:][..., order]], axis=-1)
        after = attend(spec, CONFIGS["split"], (q, turn(k), turn(v), turned))
        np.testing.assert_allclose(before, after, atol=EXACT)


@pytest.mark.parametrize("config", [CONFIGS["whole"], CONFIGS["split"]])
def test_an_empty_slot_is_not_read(config):
    """Whatever lies in it, not a number included, has no influence."""
    spec = SMALL["odd_tokens"]
    p = spec.problem
    q, k, v, bias = spec.operands(seed=4)
    before = attend(spec, config, (q, k, v, bias))
    start = p.prompt + (spec.empty[0] - 1) * p.keys
    rubbish = slice(start, start + p.keys)
    k, v = k.at[:, rubbish].set(jnp.nan), v.at[:, rubbish].set(jnp.inf)
    np.testing.assert_array_equal(before, attend(spec, config, (q, k, v, bias)))


def test_a_batch_is_its_streams_one_by_one():
    spec = SMALL["odd_tokens"]
    operands = spec.operands(seed=5)
    together = attend(spec, CONFIGS["split"], operands)
    alone = dataclasses.replace(
        spec, problem=dataclasses.replace(spec.problem, batch=1)
    )
    for stream in range(spec.problem.batch):
        one = [x[stream : stream + 1] for x in operands]
        found = attend(alone, CONFIGS["split"], one)
        np.testing.assert_array_equal(found[0], together[stream])


@pytest.mark.parametrize("split", [1, 2])
def test_vmap_is_a_loop(split):
    spec = SMALL["head_12"]
    config = dataclasses.replace(CONFIGS["whole"], split=split)
    stacked = [
        jnp.stack(pair) for pair in zip(*map(spec.operands, (6, 7)), strict=True)
    ]
    call = functools.partial(attend, spec, config)
    found = jax.vmap(lambda *operands: call(operands))(*stacked)
    for i, seed in enumerate((6, 7)):
        np.testing.assert_allclose(found[i], call(spec.operands(seed)), atol=EXACT)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_those_of_the_reference(name):
    spec = SMALL[name]
    operands = spec.operands(seed=8)
    dtype = operands[0].dtype
    weight = jax.random.normal(jax.random.key(9), spec.problem.shapes[0], dtype)

    def gradients(call):
        def loss(*operands):
            return jnp.sum(call(operands) * weight)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*operands)

    found = gradients(functools.partial(attend, spec, CONFIGS["split"]))
    wanted = gradients(functools.partial(expected, spec))
    # Sums over all queries of terms that agree to EXACT, or are rounded to bfloat16.
    tolerance = 3e-5 if spec.problem.itemsize == 4 else 2 * HALF
    for letter, a, b in zip("qkvs", found, wanted, strict=True):
        assert a.dtype == b.dtype, letter
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance, err_msg=letter)
        # One slot has all the weight, whatever its bias.
        still = letter == "s" and name == "one_slot_left"
        assert np.isfinite(a).all() and (still or np.abs(a).max() > 1e-3), letter


def test_every_row_of_the_output_is_written():
    """Programs cover the queries exactly, whatever the block."""
    spec = SMALL["wide"]
    q, k, v, bias = spec.operands(seed=10)
    ones = jnp.ones_like(v)
    for config in CONFIGS.values():
        found = attend(spec, config, (q, k, ones, bias))
        np.testing.assert_allclose(found, 1, atol=EXACT)


@pytest.mark.parametrize(
    "change",
    [
        {"block_q": 48},
        {"block_q": 8},
        {"block_k": 0},
        {"split": 0},
        {"num_warps": 3},
        {"num_stages": 0},
        {"num_stages": 9},
        {"num_warps": "4"},
        {"split": True},
    ],
)
def test_an_impossible_configuration_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(CONFIGS["whole"], **change)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.slug)
@pytest.mark.parametrize("name", SPECS)
def test_defaults_fit_the_card_and_the_search_begins_with_them(name, card):
    problem = SPECS[name].problem
    config = default_config(problem, card)
    space = search_space(problem, card)
    assert space[0] == config and len(set(space)) == len(space)
    assert all(shared_memory(c, problem) <= card.shared_memory for c in space)
    assert all(c.split <= problem.frames for c in space)


def test_few_queries_are_split_until_they_fill_the_card():
    few = BARS["lsd_256"].problem
    assert programs(default_config(few, H100), few) >= H100.cores
    many = dataclasses.replace(DEFAULT_MODEL["default_256"].problem, batch=64)
    assert default_config(many, H100).split == 1


@pytest.mark.parametrize("width", [1, 64, 96, 128, 200, 256])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_there_is_a_default_for_every_head(width, dtype):
    problem = Problem(1, 1, 256, 8, 256, 32, 12, width, dtype)
    unknown = Device("NVIDIA Something", (7, 5), 40)
    for card in (*CARDS, unknown):
        config = default_config(problem, card)
        assert shared_memory(config, problem) <= card.shared_memory


def test_what_the_kernel_cannot_do_is_declared():
    operands = list(SMALL["plain"].operands(0))
    with pytest.raises(NotImplementedError, match="Ampere"):
        frame_attention(*operands, prompt_tokens=16, backend="triton")
    mixed = [operands[0].astype(jnp.bfloat16), *operands[1:]]
    with pytest.raises(NotImplementedError, match="bfloat16"):
        triton.attend(*mixed, prompt_tokens=16, interpret=True)
    wide = Problem(1, 1, 2, 1, 2, 1, 1, 257, "float32").abstract
    call = functools.partial(triton.attend, prompt_tokens=1, interpret=True)
    with pytest.raises(NotImplementedError, match="257"):
        jax.eval_shape(call, *wide)


def test_the_combining_kernel_reads_few_queries_at_a_time():
    for spec in SPECS.values():
        rows = kernel.combined_rows(spec.problem)
        assert rows >= 1 and rows & (rows - 1) == 0
