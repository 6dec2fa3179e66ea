"""The dense layers of a block, in 16 or 8 bits, to be timed one by one."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.kernel_case import DEFINITION, Contest, linked, whole
from pallas_kernels import linear_8bit as eight
from pallas_kernels.eight_bit import Quantised, quantise_rows
from pallas_kernels.linear import choice, mosaic, reference
from pallas_kernels.linear.problem import Problem
from pallas_kernels.linear_8bit import choice as choice_8bit
from pallas_kernels.linear_8bit import mosaic as mosaic_8bit
from pallas_kernels.linear_8bit import reference as reference_8bit
from pallas_kernels.linear_8bit import triton as triton_8bit
from pallas_kernels.timing import Stack, Step

COLD = 80e6  # bytes of weights that together leave nothing of each other in an L2 cache
MOST_SETS = 32


def layers_of(width: int) -> dict[str, dict[str, Any]]:
    """Inputs, outputs and epilogue of each layer of a block of so many channels."""
    return {
        "qkv": {"inputs": width, "outputs": 3 * width, "biased": False},
        "out": {"inputs": width, "outputs": width},
        "up": {"inputs": width, "outputs": 4 * width, "activation": "gelu"},
        "down": {"inputs": 4 * width, "outputs": width},
    }


def draw(problem: Problem) -> tuple[Any, Stack]:
    """What the first call reads, and as many (weight, bias) as make a cache cold.

    They are stacked as the layers of a model: not every backend reads them in place.
    """
    p = problem
    key, dtype = jax.random.key(0), jnp.dtype(p.dtype)
    x: Any = jax.random.normal(key, (1, p.frames, p.tokens, p.inputs), dtype)
    if p.eight_bit:
        x = quantise_rows(x.astype(jnp.float32), p.format)

    @jax.jit
    def operands(key: Array) -> Any:
        shape = (p.inputs, p.outputs)
        weight: Any = jax.random.normal(key, shape, dtype) * p.inputs**-0.5
        bias = jax.random.normal(key, (p.outputs,), dtype)
        if p.eight_bit:
            weight = eight.quantise_weight(weight, p.format)
        return weight, bias if p.biased else None

    size = p.inputs * p.outputs * p.itemsize
    count = min(max(2, math.ceil(COLD / size)), MOST_SETS)
    carry = x, jnp.zeros((1, p.frames, p.tokens, p.outputs), dtype)
    drawn = [operands(jax.random.fold_in(key, n)) for n in range(count)]
    return carry, Stack(jax.tree.map(lambda *sets: jnp.stack(sets), *drawn), count)


def _dense(carry: Any, operands: Any, *, call: Callable[..., Array]) -> Any:
    x, last = carry
    x, (weight, bias) = linked(x, last), operands
    return x, whole(call(x, weight, bias, None, None))


def _dense_8bit(carry: Any, operands: Any, *, call: Callable[..., Array]) -> Any:
    x, last = carry
    x, (weight, bias) = Quantised(x.values, linked(x.scale, last)), operands
    return x, whole(call(x, *weight, bias, None, None))


def _linear_step(problem: Problem, interpret: bool, backend: str, config: Any) -> Step:
    calls: dict[str, Callable[..., Array]] = {
        DEFINITION: reference.linear,
        "xla": reference.linear_xla,
        "mosaic": functools.partial(mosaic.linear, config=config, interpret=interpret),
    }
    call = functools.partial(calls[backend], activation=problem.activation)
    return functools.partial(_dense, call=call)


def _linear_8bit_step(
    problem: Problem, interpret: bool, backend: str, config: Any
) -> Step:
    ours = {"config": config, "interpret": interpret}
    calls: dict[str, Callable[..., Array]] = {
        DEFINITION: reference_8bit.linear_8bit,
        "xla": reference_8bit.linear_xla,
        "triton": functools.partial(triton_8bit.linear_8bit, **ours),
        "mosaic": functools.partial(mosaic_8bit.linear_8bit, **ours),
    }
    epilogue = {"activation": problem.activation, "dtype": jnp.dtype(problem.dtype)}
    return functools.partial(
        _dense_8bit, call=functools.partial(calls[backend], **epilogue)
    )


def contest(problem: Problem, interpret: bool) -> Contest:
    """One dense layer; in the interpreter without the Hopper kernel, which is slow."""
    p = problem
    eight_bit = p.eight_bit
    step = _linear_8bit_step if eight_bit else _linear_step
    ours: tuple[str, ...] = ("triton", "mosaic") if eight_bit else ("mosaic",)
    if interpret:
        ours = tuple(name for name in ours if name != "mosaic")
    moved = p.itemsize * p.inputs * (p.rows + p.outputs)
    moved += jnp.dtype(p.dtype).itemsize * p.rows * p.outputs
    products = 2.0 * p.rows * p.inputs * p.outputs
    return Contest(
        op=choice_8bit.OP if eight_bit else choice.OP,
        problem=p,
        backends=(*ours, "xla"),
        draw=functools.partial(draw, p),
        step=functools.partial(step, p, interpret),
        bytes_moved=float(moved),
        # 8-bit matrix units do twice the operations of 16-bit ones.
        flops=products / 2 if eight_bit else products,
        tolerance=1e-2,  # rounded to 16 bits once by each, perhaps to either side
    )
