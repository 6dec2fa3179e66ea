"""Norms, commit and 8-bit layers compile for sm_86, sm_80 and sm_90 without a GPU.

`make test-aot` installs what it takes and runs it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.eight_bit import LARGEST, Quantised
from pallas_kernels.linear_8bit import triton as linear
from pallas_kernels.modulated_norm import problem as norm_problem
from pallas_kernels.modulated_norm import triton as norm
from pallas_kernels.qk_norm_rope_commit import triton as commit
from pallas_kernels.targets import (
    H100,
    TARGETS,
    Target,
    compile_for,
    plugin_missing,
)

missing = plugin_missing()
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(missing is not None, reason=str(missing)),
]

# Tokens and width of the frame loop at 880M and of the shipped model, and an odd one.
ROWS = [(256, 1536), (1024, 1536), (256, 384), (49, 72)]
LAYER = jax.ShapeDtypeStruct((), jnp.int32)


@pytest.fixture(params=TARGETS, ids=lambda t: t.file)
def target(request: Any) -> Target:
    """A card that is not there."""
    chosen: Target = request.param
    return chosen


def half(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def full(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def eight_bit(to: str, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(to))


def quantised(to: str, rows: int, inputs: int) -> Quantised:
    scale: Any = full(1, 1, rows)
    return Quantised(eight_bit(to, 1, 1, rows, inputs), scale)


def has_float8(target: Target) -> bool:
    return target.device.capability >= (8, 9)


@pytest.mark.parametrize("to", [None, *LARGEST])
@pytest.mark.parametrize("tokens, width", ROWS)
def test_the_norms_compile(target: Target, tokens: int, width: int, to: str) -> None:
    x, vector = half(1, 2, tokens, width), half(1, 2, width)
    plain = functools.partial(norm.modulated_norm, to=to)
    gated = functools.partial(norm.gated_residual_norm, to=to)
    if to == "float8_e4m3fn" and not has_float8(target):
        with pytest.raises(NotImplementedError, match="no float8"):
            compile_for(target, plain, x, vector, vector)
        return
    compile_for(target, plain, x, vector, vector)
    compile_for(target, gated, x, x, vector, vector, vector)
    layers = half(3, *vector.shape)
    compile_for(target, gated, x, x, layers, layers, layers, LAYER)


def test_all_that_is_searched_of_the_norms_compiles(target: Target) -> None:
    x, vector, layers = half(1, 1, 256, 1536), half(1, 1, 1536), half(3, 1, 1, 1536)
    for config in norm_problem.search_space(norm_problem.Problem(1, 256, 1536)):
        gated = functools.partial(norm.gated_residual_norm, config=config)
        compile_for(target, gated, x, x, vector, vector, vector)
        compile_for(target, gated, x, x, layers, layers, layers, LAYER)


def commit_operands(tokens: int, heads: int, width: int, frames: int) -> list[Any]:
    queries = frames * tokens
    slots = half(3, 1, 8 + 9 * tokens, heads, width)
    starts = jax.ShapeDtypeStruct((frames,), jnp.int32)
    angle = full(queries, width // 2)
    scale = full(3, width)
    qkv = half(1, queries, 3, heads, width)
    return [qkv, scale, scale, angle, angle, slots, slots, LAYER, starts]


@pytest.mark.parametrize(
    "tokens, heads, width", [(256, 12, 128), (64, 6, 64), (49, 4, 96)]
)
@pytest.mark.parametrize("frames", [1, 2])
def test_the_commit_compiles_and_copies_nothing(
    target: Target, tokens: int, heads: int, width: int, frames: int
) -> None:
    operands = commit_operands(tokens, heads, width, frames)
    program = compile_for(target, commit.qk_norm_rope_commit, *operands, donate=(5, 6))
    memory = program.memory_analysis()
    cache = 2 * operands[5].size * operands[5].dtype.itemsize
    assert memory.alias_size_in_bytes >= cache
    assert memory.temp_size_in_bytes < cache // 8


@pytest.mark.parametrize("to", LARGEST)
@pytest.mark.parametrize("rows", [256, 1024])
@pytest.mark.parametrize(
    "inputs, outputs, activation, residual",
    [(1536, 6144, "gelu", False), (6144, 1536, None, True), (72, 100, None, True)],
)
def test_the_8_bit_layers_compile(
    target: Target,
    to: str,
    rows: int,
    inputs: int,
    outputs: int,
    activation: str | None,
    residual: bool,
) -> None:
    call = functools.partial(
        linear.linear_8bit, activation=activation, dtype=jnp.dtype(jnp.bfloat16)
    )
    operands = (
        quantised(to, rows, inputs),
        eight_bit(to, outputs, inputs),
        full(outputs),
        half(outputs),
        half(1, 1, rows, outputs) if residual else None,
        half(1, 1, outputs) if residual else None,
    )
    if to == "float8_e4m3fn" and not has_float8(target):
        with pytest.raises(NotImplementedError, match="float8_e4m3fn needs"):
            compile_for(target, call, *operands)
        return
    compile_for(target, call, *operands)


def test_the_check_means_something() -> None:
    """What takes more shared memory than there is does not compile."""
    config = linear.Config(128, 256, 256, 8, 5)
    call = functools.partial(
        linear.linear_8bit,
        activation=None,
        dtype=jnp.dtype(jnp.bfloat16),
        config=config,
    )
    x, weight = quantised("int8", 256, 1536), eight_bit("int8", 6144, 1536)
    operands = (x, weight, full(6144), None, None, None)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Shared memory size limit"):
        compile_for(H100, call, *operands)
