"""The Hopper dense layers on a real GPU: run by `make test-gpu`, skipped elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _mosaic, device
from pallas_kernels.eight_bit import LARGEST, quantise_rows
from pallas_kernels.linear import linear, mosaic
from pallas_kernels.linear.config import Config
from pallas_kernels.linear_8bit import linear_8bit, quantise_weight
from pallas_kernels.linear_8bit import mosaic as mosaic_8bit


def unable() -> str | None:
    card = device.present()
    if card is None or card.capability != _mosaic.HOPPER:
        return "needs a Hopper card"
    return None if _mosaic.HAS_MOSAIC else "needs jax 0.11"


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(unable() is not None, reason=str(unable())),
]
EPILOGUES = {
    "plain": (),
    "gelu": ("bias", "gelu"),
    "gated_residual": ("bias", "gate", "residual"),
    "residual": ("residual",),
}
# frames, tokens, inputs, outputs, and ways to cut the work: every split, one and two
# warpgroups of 64 and 128 rows, tiles shared both ways, rings shorter and longer than
# the inputs.
SIXTEEN = [
    ((1, 64, 128, 64), Config(64, 64, 64, 1, 1, 2)),
    ((1, 64, 1024, 64), Config(64, 64, 64, 1, 1, 3)),
    ((2, 128, 192, 192), Config(128, 64, 64, 2, 1, 4)),
    ((1, 128, 512, 128), Config(128, 128, 64, 1, 2, 3)),
    ((1, 128, 768, 192), Config(64, 192, 64, 1, 3, 3)),
    ((1, 256, 1024, 256), Config(256, 64, 64, 2, 4, 2)),
    ((3, 128, 640, 64), Config(128, 64, 128, 2, 1, 2)),
    ((1, 128, 768, 192), Config(128, 192, 64, 2, 6, 3)),
    ((1, 128, 2048, 192), Config(128, 192, 64, 2, 8, 5)),
    ((1, 256, 512, 128), Config(64, 128, 64, 1, 2, 3, 4, 1)),
    ((1, 256, 512, 512), Config(128, 128, 64, 2, 2, 3, 2, 2)),
    ((1, 64, 1024, 512), Config(64, 64, 64, 1, 2, 3, 1, 4)),
]
EIGHT = [
    ((1, 64, 256, 16), Config(64, 16, 128, 1, 1, 2)),
    ((2, 128, 1024, 112), Config(128, 112, 128, 2, 1, 3)),
    ((1, 128, 768, 48), Config(64, 48, 128, 1, 3, 2)),
    ((1, 128, 1024, 96), Config(128, 96, 128, 2, 4, 3)),
    ((1, 128, 1280, 80), Config(128, 80, 128, 2, 5, 3)),
    ((1, 256, 1024, 192), Config(128, 96, 256, 2, 2, 2, 2, 2)),
    ((1, 64, 1024, 256), Config(64, 64, 128, 1, 8, 2)),
]


def cases(cuts):
    """Every cut with one epilogue in turn, the last cut with all of them."""
    names = list(EPILOGUES)
    turns = [(*cut, names[n % len(names)]) for n, cut in enumerate(cuts[:-1])]
    chosen = turns + [(*cuts[-1], name) for name in names]
    return [
        pytest.param(shape, config, EPILOGUES[name], id=f"{config}-{name}")
        for shape, config, name in chosen
    ]


def draw(shape, parts, seed=0):
    frames, tokens, inputs, outputs = shape
    rng = np.random.default_rng(seed)

    def normal(*dims, dtype=jnp.bfloat16):
        return jnp.asarray(rng.normal(size=dims), dtype)

    x = normal(1, frames, tokens, inputs)
    kernel = normal(inputs, outputs) * inputs**-0.5
    named = {
        "bias": normal(outputs),
        "residual": normal(1, frames, tokens, outputs),
        "gate": normal(1, frames, outputs),
    }
    chosen = {name: value for name, value in named.items() if name in parts}
    return x, kernel, chosen, "gelu" if "gelu" in parts else None


def relative(found, wanted):
    a, b = (np.asarray(x, np.float64) for x in (found, wanted))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("shape, config, parts", cases(SIXTEEN))
def test_the_kernel_is_the_definition(shape, config, parts):
    x, kernel, chosen, activation = draw(shape, parts)
    call = functools.partial(mosaic.linear, activation=activation, config=config)
    named = [chosen.get(name) for name in ("bias", "residual", "gate")]
    found = jax.jit(call)(x, kernel, *named)
    wanted = linear(x, kernel, activation=activation, backend="reference", **chosen)
    # Sums are float32 in another order; then one rounding to 8 bits, to either side.
    assert relative(found, wanted) <= 5e-3


@pytest.mark.parametrize("to", LARGEST)
@pytest.mark.parametrize("shape, config, parts", cases(EIGHT))
def test_the_8_bit_kernel_is_the_definition(shape, config, parts, to):
    x, kernel, chosen, activation = draw(shape, parts)
    x = quantise_rows(x.astype(jnp.float32), to)
    weight = quantise_weight(kernel, to)
    call = functools.partial(
        mosaic_8bit.linear_8bit,
        activation=activation,
        dtype=jnp.dtype(jnp.bfloat16),
        config=config,
    )
    named = [chosen.get(name) for name in ("bias", "residual", "gate")]
    found = jax.jit(call)(x, *weight, *named)
    wanted = linear_8bit(
        x, weight, activation=activation, backend="reference", **chosen
    )
    # Matrix units sum products of float8 with fewer bits than float32 has.
    assert relative(found, wanted) <= (5e-3 if to == "int8" else 1e-2)


def test_runs_repeat_to_the_bit():
    x, kernel, chosen, _ = draw((1, 256, 2048, 384), ("bias",))
    config = Config(128, 192, 64, 2, 4, 5, 2, 1)
    call = jax.jit(functools.partial(mosaic.linear, activation=None, config=config))
    first = np.asarray(call(x, kernel, chosen["bias"], None, None), np.float32)
    for _ in range(50):
        again = call(x, kernel, chosen["bias"], None, None)
        np.testing.assert_array_equal(np.asarray(again, np.float32), first)


@pytest.mark.parametrize("rows", [256, 1024])
@pytest.mark.parametrize(
    "inputs, outputs", [(1536, 4608), (1536, 1536), (1536, 6144), (6144, 1536)]
)
def test_defaults_work_at_the_sizes_of_the_model(rows, inputs, outputs):
    x, kernel, chosen, _ = draw((1, rows, inputs, outputs), ("bias",))
    found = linear(x, kernel, backend="mosaic", **chosen)
    wanted = linear(x, kernel, backend="reference", **chosen)
    assert relative(found, wanted) <= 5e-3
