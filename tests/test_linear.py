"""The dense layer in 16 bits: the kernel is the definition, as far as a CPU can tell.

The interpreter of Pallas-Mosaic runs the kernel with shared tiles, but not
`async_store_smem`, through which the blocks of a split send their sums: splits are
tested on a GPU alone (`test_gpu_linear.py`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _mosaic, device
from pallas_kernels.eight_bit import LARGEST, quantise_rows
from pallas_kernels.linear import hopper, linear, mosaic
from pallas_kernels.linear.config import (
    Config,
    blocks,
    default_config,
    estimate,
    misfit,
    search_space,
    shared_memory,
)
from pallas_kernels.linear.problem import Problem
from pallas_kernels.linear_8bit import linear_8bit, quantise_weight
from pallas_kernels.linear_8bit import mosaic as mosaic_8bit

interpreted = pytest.mark.skipif(
    not _mosaic.HAS_MOSAIC, reason="the interpreter of Mosaic came with jax 0.11"
)
EPILOGUES = {
    "plain": (),
    "gelu": ("bias", "gelu"),
    "gated_residual": ("bias", "gate", "residual"),
    "residual": ("residual",),
}
# frames, tokens, inputs, outputs; a warpgroup, two, tiles shared below and beside.
CUTS = [
    ((1, 64, 192, 64), Config(64, 64, 64, 1, 1, 2)),
    ((2, 64, 128, 128), Config(128, 64, 64, 2, 1, 3)),
    ((2, 64, 192, 128), Config(64, 64, 64, 1, 1, 2, 2, 1)),
    ((1, 64, 128, 128), Config(64, 64, 64, 1, 1, 2, 1, 2)),
]


def draw(shape, parts=(), dtype=jnp.bfloat16):
    frames, tokens, inputs, outputs = shape
    rng = np.random.default_rng(0)

    def normal(*dims):
        return jnp.asarray(rng.normal(size=dims), dtype)

    x, kernel = normal(1, frames, tokens, inputs), normal(inputs, outputs)
    named = {
        "bias": normal(outputs),
        "residual": normal(1, frames, tokens, outputs),
        "gate": normal(1, frames, outputs),
    }
    chosen = {name: value for name, value in named.items() if name in parts}
    activation = "gelu" if "gelu" in parts else None
    return x, kernel * inputs**-0.5, chosen, activation


def races_found():
    """Whether the interpreter saw accesses in the last kernel that nothing orders."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    return gpu_callbacks.get_races().races_found


def relative(found, wanted):
    a, b = (np.asarray(x, np.float64) for x in (found, wanted))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@interpreted
@pytest.mark.parametrize("parts", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize("shape, config", CUTS, ids=str)
def test_the_kernel_is_the_definition(shape, config, parts):
    x, kernel, chosen, activation = draw(shape, parts)
    named = [chosen.get(name) for name in ("bias", "residual", "gate")]
    found = mosaic.linear(
        *(x, kernel, *named), activation=activation, config=config, interpret=True
    )
    wanted = linear(x, kernel, activation=activation, backend="reference", **chosen)
    assert found.dtype == x.dtype and found.shape == wanted.shape
    assert not races_found()
    # One rounding to bfloat16, perhaps to either side.
    assert relative(found, wanted) <= 2**-8


@interpreted
@pytest.mark.parametrize("to", LARGEST)
def test_the_8_bit_kernel_is_the_definition(to):
    x, kernel, chosen, _ = draw((2, 64, 256, 96), ("bias", "gate", "residual"))
    x = quantise_rows(x.astype(jnp.float32), to)
    weight = quantise_weight(kernel, to)
    found = mosaic_8bit.linear_8bit(
        *(x, *weight, chosen["bias"], chosen["residual"], chosen["gate"]),
        activation=None,
        dtype=jnp.dtype(jnp.bfloat16),
        config=Config(64, 48, 128, 1, 1, 2),
        interpret=True,
    )
    wanted = linear_8bit(x, weight, backend="reference", **chosen)
    assert relative(found, wanted) <= 2**-8


@interpreted
def test_the_gradient_is_that_of_the_definition():
    x, kernel, chosen, _ = draw((1, 64, 128, 64), ("bias",))

    def loss(call, *operands):
        return jnp.square(call(*operands).astype(jnp.float32)).sum()

    def ours(x, kernel, bias):
        config = Config(64, 64, 64, 1, 1, 2)
        return mosaic.linear(
            *(x, kernel, bias, None, None),
            activation="gelu",
            config=config,
            interpret=True,
        )

    theirs = functools.partial(linear, activation="gelu")
    operands = (x, kernel, chosen["bias"])
    found = jax.grad(functools.partial(loss, ours), (0, 1, 2))(*operands)
    wanted = jax.grad(functools.partial(loss, theirs), (0, 1, 2))(*operands)
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) <= 1e-2


@pytest.mark.parametrize("parts", EPILOGUES.values(), ids=EPILOGUES)
def test_xla_is_the_definition(parts):
    x, kernel, chosen, activation = draw((2, 9, 40, 24), parts, jnp.float32)
    found, wanted = (
        linear(x, kernel, activation=activation, backend=name, **chosen)
        for name in ("xla", "reference")
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "cuda"},
        {"activation": "relu"},
        {"x": jnp.zeros((2, 8))},
        {"kernel": jnp.zeros((9, 4))},
        {"kernel": jnp.zeros((8, 4), jnp.int32)},
        {"bias": jnp.zeros(5)},
        {"residual": jnp.zeros((1, 1, 2, 5))},
        {"gate": jnp.zeros((1, 2, 4))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_wrong_callers_are_told(change):
    named = {"x": jnp.zeros((1, 1, 2, 8)), "kernel": jnp.zeros((8, 4))} | change
    with pytest.raises(ValueError, match=next(iter(change))):
        linear(**named)


def test_what_the_kernel_cannot_do_is_not_implemented(monkeypatch):
    x, kernel, _, _ = draw((1, 64, 128, 64))
    with pytest.raises(NotImplementedError):
        linear(x, kernel, backend="mosaic")
    with pytest.raises(NotImplementedError, match="dtype"):
        mosaic.linear(
            *(x.astype(jnp.float32), kernel, None, None, None), activation=None
        )
    monkeypatch.setattr(hopper, "card_for", lambda _: device.Device("H", (9, 0), 132))
    with pytest.raises(NotImplementedError, match="no tiles"):
        linear(x[:, :, :63], kernel, backend="mosaic")
    with pytest.raises(ValueError, match="does not fit"):
        config = Config(128, 64, 64, 2, 1, 2)
        mosaic.linear(x, kernel, None, None, None, activation=None, config=config)


@pytest.mark.parametrize(
    "change",
    [
        {"tile_m": 96},
        {"tile_n": 12},
        {"tile_n": 264},
        {"tile_k": 32},
        {"warpgroups": 3},
        {"split": 3},
        {"stages": 1},
        {"share_rows": 8},
        {"share_outputs": 0},
        {"stages": 2.0},
    ],
    ids=str,
)
def test_configurations_check_themselves(change):
    sizes = {"tile_m": 128, "tile_n": 64, "tile_k": 64, "warpgroups": 2}
    with pytest.raises(ValueError):
        Config(**sizes | {"split": 2, "stages": 4} | change)


@pytest.mark.parametrize("to", ["bfloat16", *LARGEST])
@pytest.mark.parametrize("rows", [64, 256, 1024])
@pytest.mark.parametrize(
    "inputs, outputs", [(1536, 6144), (6144, 1536), (1536, 4608), (384, 1536)]
)
def test_defaults_fit_and_come_first(rows, inputs, outputs, to):
    problem = Problem(1, rows, inputs, outputs, format=to)
    space = search_space(problem, 132)
    assert space[0] == default_config(problem, 132)
    assert len(space) == len(set(space)) and len(space) >= 8
    for config in space:
        assert misfit(config, problem) is None
        assert shared_memory(config, problem) <= _mosaic.SHARED_MEMORY
        assert blocks(config, problem) % config.cluster == 0
        assert 0 < estimate(config, problem, 132) < 200
