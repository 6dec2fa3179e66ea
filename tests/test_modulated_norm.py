"""The modulated norms: the kernel is the definition, rounded once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import modulated_norm as op
from pallas_kernels.blocks import pieces
from pallas_kernels.eight_bit import LARGEST, Quantised
from pallas_kernels.modulated_norm import reference, triton
from pallas_kernels.modulated_norm.problem import (
    MOST_ELEMENTS,
    Config,
    Problem,
    default_config,
    search_space,
)

# name: batch, groups, tokens, width
SHAPES = {
    "power_of_two": (1, 1, 16, 64),
    "odd_tokens": (2, 1, 49, 96),
    "three_pieces": (1, 2, 7, 384),
    "three_streams": (3, 1, 5, 40),
}
CASES = [pytest.param(shape, id=name) for name, shape in SHAPES.items()]
# Both compute in float32, in another order; a half precision result may then fall on
# the other side of a rounding step: 2^-8 of bfloat16, and of numbers up to 4.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2**-6}


def operands(shape, dtype, gated):
    b, g, n, d = shape
    rng = np.random.default_rng(0)

    def draw(*dims: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=dims), dtype)

    vectors = [0.5 * draw(b, g, d) for _ in range(3 if gated else 2)]
    return (draw(b, g, n, d), *([draw(b, g, n, d)] if gated else []), *vectors)


def function(module: Any, gated: bool) -> Any:
    return module.gated_residual_norm if gated else module.modulated_norm


def run(gated, values, config=None, to=None):
    call = functools.partial(
        function(triton, gated), to=to, config=config, interpret=True
    )
    return jax.jit(call)(*values)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", CASES)
def test_the_kernel_is_the_definition(shape, dtype, gated):
    values = operands(shape, dtype, gated)
    wanted = jax.tree.leaves(jax.jit(function(reference, gated))(*values))
    for config in (None, Config(4, 2)):
        found = jax.tree.leaves(run(gated, values, config))
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype == dtype and one.shape == other.shape
            np.testing.assert_allclose(
                np.asarray(one, np.float32),
                np.asarray(other, np.float32),
                atol=TOLERANCE[dtype],
            )


def test_the_definition_is_that_of_the_books():
    x, branch, gate, scale, shift = (
        np.asarray(v, float) for v in operands((1, 2, 3, 8), "float32", True)
    )
    total = x + gate[:, :, None] * branch
    unit = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-6)
    wanted = unit * (1 + scale[:, :, None]) + shift[:, :, None]
    values = operands((1, 2, 3, 8), "float32", True)
    found = op.gated_residual_norm(*values)
    np.testing.assert_allclose(found[0], total, atol=1e-6)
    np.testing.assert_allclose(found[1], wanted, atol=2e-6)


@pytest.mark.parametrize("to", LARGEST)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_eight_bits_come_with_the_scale_of_their_row(gated, to):
    values = operands((2, 1, 9, 48), "bfloat16", gated)
    found = run(gated, values, Config(2, 1), to)
    exact = run(gated, tuple(v.astype(jnp.float32) for v in values))
    if gated:
        found, exact = found[1], exact[1]
    assert isinstance(found, Quantised)
    assert found.values.dtype == jnp.dtype(to) and found.scale.shape == (2, 1, 9)
    back = np.asarray(found.values, np.float32) * np.asarray(found.scale)[..., None]
    largest = np.abs(np.asarray(exact)).max(-1)
    np.testing.assert_allclose(found.scale * LARGEST[to], largest, rtol=0.02)
    # Half a step of int8; e4m3 has 3 bits behind the leading one. And bfloat16's own.
    step = largest / (2 * 127) if to == "int8" else largest / 16
    assert (np.abs(back - exact) <= 1.05 * step[..., None] + 0.02).all()


@pytest.mark.parametrize("backend", ["xla", "triton"])
def test_the_vectors_of_a_layer_are_read_among_those_of_all(backend, monkeypatch):
    interpreted = functools.partial(triton.gated_residual_norm, interpret=True)
    monkeypatch.setattr(triton, "gated_residual_norm", interpreted)
    x, branch, *vectors = operands((2, 2, 9, 48), "float32", True)
    layers = [jnp.stack([v - 1, v, v + 1]) for v in vectors]
    norm = functools.partial(op.gated_residual_norm, backend=backend)
    for layer in range(3):
        found = jax.jit(norm)(x, branch, *layers, layer=jnp.int32(layer))
        wanted = norm(x, branch, *(v[layer] for v in layers))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=TOLERANCE["float32"])
    with pytest.raises(ValueError, match="does not fit"):
        norm(x, branch, *layers)
    with pytest.raises(ValueError, match="does not fit"):
        norm(x, branch, *vectors, layer=0)
    with pytest.raises(ValueError, match="does not fit"):
        norm(x, branch, layers[0], *vectors[1:], layer=0)


def test_a_program_of_several_rows_reads_the_vectors_of_a_layer():
    x, branch, *vectors = operands((1, 2, 8, 48), "bfloat16", True)
    layers = [jnp.stack([v, -v]) for v in vectors]
    call = functools.partial(
        triton.gated_residual_norm, config=Config(4, 2), interpret=True
    )
    found = jax.jit(call)(x, branch, *layers, 1)
    wanted = jax.jit(call)(x, branch, *(-v for v in vectors))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_layers_gradient_is_that_of_its_own_vectors():
    x, branch, *vectors = operands((1, 1, 6, 40), "float32", True)
    layers = tuple(jnp.stack([v, v + 1]) for v in vectors)
    kernel = functools.partial(triton.gated_residual_norm, interpret=True)

    def total(call, layers):
        leaves = jax.tree.leaves(call(x, branch, *layers, jnp.int32(1)))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

    found = jax.jit(jax.grad(functools.partial(total, kernel)))(layers)
    definition = functools.partial(total, reference.gated_residual_norm)
    wanted = jax.jit(jax.grad(definition))(layers)
    for one, other in zip(found, wanted, strict=True):
        assert not one[0].any()
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_rows_of_zeros_stay_zeros():
    x = jnp.zeros((1, 1, 4, 32))
    zeros = jnp.zeros((1, 1, 32))
    found = run(False, (x, zeros, zeros), to="int8")
    assert not found.values.any() and np.isfinite(found.scale).all()


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_gradients_are_those_of_the_definition(gated):
    values = operands((2, 1, 6, 40), "float32", gated)

    def total(call, values):
        leaves = jax.tree.leaves(call(*values))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)

    kernel = functools.partial(function(triton, gated), interpret=True)
    found = jax.jit(jax.grad(functools.partial(total, kernel)))(values)
    wanted = jax.jit(jax.grad(functools.partial(total, function(reference, gated))))(
        values
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_it_can_be_vmapped():
    values = operands((3, 1, 5, 40), "float32", False)
    call = functools.partial(triton.modulated_norm, interpret=True)
    one_by_one = jax.vmap(call)(*(v[:, None] for v in values))[:, 0]
    np.testing.assert_allclose(one_by_one, run(False, values), atol=1e-6)


def test_what_does_not_fit_is_refused():
    x, scale, shift = operands((1, 2, 4, 8), "float32", False)
    with pytest.raises(ValueError, match="scale.shape"):
        op.modulated_norm(x, scale[:, :1], shift)
    with pytest.raises(ValueError, match="branch.shape"):
        op.gated_residual_norm(x, x[:, :, :2], scale, scale, shift)
    with pytest.raises(ValueError, match="B, G, N, D"):
        op.modulated_norm(x[0], scale, shift)
    with pytest.raises(ValueError, match="to='int4'"):
        op.modulated_norm(x, scale, shift, to="int4")
    with pytest.raises(ValueError, match="backend='cuda'"):
        op.modulated_norm(x, scale, shift, backend="cuda")


def test_the_kernel_says_what_it_cannot_do():
    x, scale, shift = operands((1, 1, 4, 8), "float32", False)
    if jax.default_backend() != "gpu":
        with pytest.raises(NotImplementedError, match="Ampere"):
            op.modulated_norm(x, scale, shift, backend="triton")
    half = x.astype(jnp.int32)
    with pytest.raises(NotImplementedError, match="int32"):
        triton.modulated_norm(half, scale, shift, interpret=True)

    def loss(x):
        return triton.modulated_norm(x, scale, shift, to="int8", interpret=True).scale

    with pytest.raises(NotImplementedError, match="no gradient"):
        jax.grad(lambda x: loss(x).sum())(x)


@pytest.mark.parametrize("change", [{"rows": 3}, {"rows": 0}, {"num_warps": 3}])
def test_configurations_check_themselves(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Config(**change)


@pytest.mark.parametrize("width", [64, 384, 1536, 8192])
def test_the_default_is_among_what_is_searched(width):
    problem = Problem(1, 256, width)
    space = search_space(problem)
    assert space[0] == default_config(problem)
    assert len(set(space)) == len(space) > 4
    assert max(config.rows for config in space) * width <= MOST_ELEMENTS


@pytest.mark.parametrize(
    "width, wanted",
    [(1536, (512, 3)), (384, (128, 3)), (1024, (1024, 1)), (72, (128, 1))],
)
def test_a_row_is_cut_into_pieces_without_a_rest(width, wanted):
    assert pieces(width) == wanted
