"""The 8-bit dense layer: the kernel is the definition, epilogues included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.eight_bit import LARGEST, Quantised, quantise_rows
from pallas_kernels.linear_8bit import linear_8bit, quantise_weight, triton
from pallas_kernels.linear_8bit.config import (
    Config,
    Problem,
    default_config,
    programs,
    search_space,
    shared_memory,
)

# name: batch, groups, tokens, inputs, outputs
SHAPES = {
    "blocks": (1, 1, 32, 64, 32),
    "ragged": (2, 1, 19, 72, 40),
    "two_frames": (1, 2, 9, 48, 100),
}
CASES = [pytest.param(shape, id=name) for name, shape in SHAPES.items()]
EPILOGUES = {
    "plain": (),
    "gelu": ("bias", "gelu"),
    "gated_residual": ("bias", "gate", "residual"),
    "residual": ("residual",),
}
# The products are exact (int8) or summed in float32 in another order; then one
# rounding to bfloat16, of numbers up to about 4, to either side.
TOLERANCE = {"float32": 2e-5, "bfloat16": 2**-6}
SMALL = Config(16, 32, 32, 2, 2)


def operands(shape, to, parts=()):
    b, g, n, inputs, outputs = shape
    rng = np.random.default_rng(0)

    def draw(*dims: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=dims), jnp.float32)

    x = quantise_rows(draw(b, g, n, inputs), to)
    weight = quantise_weight(draw(inputs, outputs) * inputs**-0.5, to)
    named = {
        "bias": draw(outputs),
        "residual": draw(b, g, n, outputs),
        "gate": draw(b, g, outputs),
    }
    chosen = {name: value for name, value in named.items() if name in parts}
    return x, weight, chosen, "gelu" if "gelu" in parts else None


def kernel(x, weight, chosen, activation, dtype, config):
    call = functools.partial(
        triton.linear_8bit,
        activation=activation,
        dtype=jnp.dtype(dtype),
        config=config,
        interpret=True,
    )
    named = [chosen.get(name) for name in ("bias", "residual", "gate")]
    return jax.jit(call)(x, *weight, *named)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("parts", EPILOGUES.values(), ids=EPILOGUES.keys())
@pytest.mark.parametrize("shape", CASES)
def test_the_kernel_is_the_definition(shape, parts, dtype):
    x, weight, chosen, activation = operands(shape, "int8", parts)
    wanted = linear_8bit(
        x, weight, activation=activation, dtype=dtype, backend="reference", **chosen
    )
    found = kernel(x, weight, chosen, activation, dtype, SMALL)
    assert found.dtype == dtype and found.shape == wanted.shape
    np.testing.assert_allclose(
        np.asarray(found, np.float32),
        np.asarray(wanted, np.float32),
        atol=TOLERANCE[dtype],
    )


@pytest.mark.parametrize("config", [None, Config(32, 16, 64, 4, 3)])
def test_every_way_to_cut_the_work_gives_the_same(config):
    x, weight, chosen, _ = operands(SHAPES["ragged"], "int8", ("bias",))
    wanted = kernel(x, weight, chosen, None, "float32", SMALL)
    found = kernel(x, weight, chosen, None, "float32", config)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("to", LARGEST)
@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_it_is_near_the_layer_that_it_stands_for(to, backend):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 2, 16, 256)), jnp.float32)
    dense = jnp.asarray(rng.normal(size=(256, 64)) / 16, jnp.float32)
    found = linear_8bit(
        quantise_rows(x, to),
        quantise_weight(dense, to),
        dtype="float32",
        backend=backend,
    )
    exact = np.asarray(x) @ np.asarray(dense)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    # Rounding: a row's largest is about 3 deviations, so int8 steps are 0.024 of one,
    # twice over; e4m3 keeps 3 bits behind the leading one of every number.
    assert error < (0.02 if to == "int8" else 0.05)


def test_weights_have_a_scale_per_output():
    dense = jnp.asarray([[1.0, 100.0], [-0.5, 25.0], [0.25, 0.0]])
    weight = quantise_weight(dense, "int8")
    assert weight.values.shape == (2, 3) and weight.values.dtype == jnp.int8
    np.testing.assert_allclose(weight.scale, [1 / 127, 100 / 127], rtol=1e-6)
    back = np.asarray(weight.values) * np.asarray(weight.scale)[:, None]
    np.testing.assert_allclose(back.T, dense, atol=0.5)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"bias": jnp.zeros(3)}, "bias.shape"),
        ({"residual": jnp.zeros((1, 1, 32, 3))}, "residual.shape"),
        ({"gate": jnp.zeros((1, 2, 32))}, "gate.shape"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"backend": "cublas"}, "backend='cublas'"),
    ],
)
def test_what_does_not_fit_is_refused(change, named):
    x, weight, _, _ = operands(SHAPES["blocks"], "int8")
    with pytest.raises(ValueError, match=named):
        linear_8bit(x, weight, **change)


def test_operands_of_different_kinds_are_refused():
    x, weight, _, _ = operands(SHAPES["blocks"], "int8")
    other = quantise_rows(jnp.ones((1, 1, 32, 64)), "float8_e4m3fn")
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        linear_8bit(other, weight)
    with pytest.raises(ValueError, match="B, G, N, K"):
        linear_8bit(Quantised(x.values, x.scale[..., None]), weight)
    narrow = quantise_rows(jnp.ones((1, 1, 32, 63)), "int8")
    with pytest.raises(ValueError, match="does not fit"):
        linear_8bit(narrow, weight)
    with pytest.raises(ValueError, match="to='int4'"):
        quantise_weight(jnp.ones((2, 2)), "int4")


@pytest.mark.parametrize(
    "change",
    [
        {"block_m": 8},
        {"block_n": 48},
        {"block_k": 16},
        {"num_warps": 3},
        {"num_stages": 0},
    ],
)
def test_configurations_check_themselves(change):
    sizes = {"block_m": 16, "block_n": 16, "block_k": 32, "num_warps": 4}
    with pytest.raises(ValueError, match=next(iter(change))):
        Config(**sizes | {"num_stages": 2} | change)


@pytest.mark.parametrize("rows", [64, 256, 1024])
@pytest.mark.parametrize("inputs, outputs", [(1536, 6144), (6144, 1536), (384, 1536)])
@pytest.mark.parametrize("shared, cores", [(101376, 82), (232448, 132)])
def test_defaults_fit_every_card_and_fill_it(rows, inputs, outputs, shared, cores):
    problem = Problem(1, rows, inputs, outputs)
    config = default_config(problem, shared, cores)
    assert shared_memory(config) <= shared
    most = programs(Config(16, 32, 128, 2, 2), problem)
    assert programs(config, problem) >= min(cores, most)
    for other in search_space(problem, shared, cores):
        assert shared_memory(other) <= shared
