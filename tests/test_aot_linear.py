"""The Hopper dense layers compile for an H100 that is not there.

`make test-aot` installs what it takes and runs it.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import _mosaic
from pallas_kernels.eight_bit import LARGEST
from pallas_kernels.linear.config import Config, search_space
from pallas_kernels.linear.hopper import dense
from pallas_kernels.linear.problem import Problem
from pallas_kernels.quantise import triton as quantise
from pallas_kernels.targets import H100, RTX_3090, compile_for, plugin_missing

missing = plugin_missing()
if missing is None and not _mosaic.HAS_MOSAIC:
    missing = "Mosaic for Hopper as used here came with jax 0.11"
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(missing is not None, reason=str(missing)),
]
FORMATS = ("bfloat16", *LARGEST)
EPILOGUES = {
    "plain": {"biased": False},
    "gelu": {"activation": "gelu"},
    "gated_residual": {"gated": True, "residual": True},
}
# Inputs and outputs of the four layers of a block at 880M.
LAYERS = [(1536, 4608), (1536, 1536), (1536, 6144), (6144, 1536)]


def shape(dtype: str, *sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))


def operands(p: Problem) -> list[jax.ShapeDtypeStruct]:
    weight = (p.outputs, p.inputs) if p.eight_bit else (p.inputs, p.outputs)
    found = [shape(p.format, p.rows, p.inputs), shape(p.format, *weight)]
    if p.eight_bit:
        found += [shape("float32", p.rows), shape("float32", p.outputs)]
    if p.biased:
        found.append(shape("bfloat16", p.outputs))
    if p.residual:
        found.append(shape("bfloat16", p.rows, p.outputs))
    if p.gated:
        found.append(shape("bfloat16", p.frames, p.outputs))
    return found


def build(p: Problem, config: Config | None = None) -> None:
    compile_for(H100, functools.partial(dense, p, config=config), *operands(p))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("rows", [256, 1024])
@pytest.mark.parametrize("inputs, outputs", LAYERS)
def test_defaults_compile(inputs: int, outputs: int, rows: int, to: str) -> None:
    build(Problem(1, rows, inputs, outputs, format=to))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("epilogue", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize("split", [1, 2, 3, 4, 6, 8])
def test_every_split_and_epilogue_compiles(split: int, epilogue: dict, to: str) -> None:
    problem = Problem(2, 128, 768 * split, 384, format=to, **epilogue)
    # Unsplit, a wide tile's epilogue would not fit into the registers.
    build(problem, Config(128, 192 if split > 1 else 128, 128, 2, split, 2))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("inputs, outputs", LAYERS)
def test_what_is_searched_compiles(inputs: int, outputs: int, to: str) -> None:
    problem = Problem(1, 256, inputs, outputs, format=to)
    for config in search_space(problem, H100.device.cores)[::5]:
        build(problem, config)


@pytest.mark.parametrize("to", LARGEST)
@pytest.mark.parametrize("width", [1536, 6144, 72])
def test_the_quantisation_of_rows_compiles(width: int, to: str) -> None:
    call = functools.partial(quantise.quantise, to=to)
    compile_for(H100, call, shape("bfloat16", 1, 1, 256, width))
    if to == "int8":
        compile_for(RTX_3090, call, shape("bfloat16", 1, 1, 49, width))
