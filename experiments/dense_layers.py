"""The dense layers of the 880M model, to be timed one by one.

A step takes what a layer reads and passes it on unchanged, behind a barrier that XLA
does not look through: no call can be left out, and each reads another weight.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels import linear_8bit as eight
from pallas_kernels.eight_bit import Quantised, quantise_rows
from pallas_kernels.linear import mosaic, reference
from pallas_kernels.linear.config import Config
from pallas_kernels.linear.problem import Problem
from pallas_kernels.linear_8bit import mosaic as mosaic_8bit
from pallas_kernels.linear_8bit import reference as reference_8bit
from pallas_kernels.timing import Step

HALF = jnp.bfloat16
COLD = 80e6  # bytes of weights that together leave nothing of each other in an L2 cache


@dataclasses.dataclass(frozen=True)
class Layer:
    """One dense layer: inputs, outputs, and its epilogue."""

    inputs: int
    outputs: int
    activation: str | None
    biased: bool

    def problem(self, rows: int, to: str) -> Problem:
        """Its sizes as the kernel wants them."""
        return Problem(
            frames=1,
            tokens=rows,
            inputs=self.inputs,
            outputs=self.outputs,
            format=to,
            activation=self.activation,
            biased=self.biased,
        )


LAYERS = {
    "qkv": Layer(1536, 4608, None, False),
    "out": Layer(1536, 1536, None, True),
    "up": Layer(1536, 6144, "gelu", True),
    "down": Layer(6144, 1536, None, True),
}


def operands(layer: Layer, rows: int, to: str) -> tuple[Any, list[Any]]:
    """What the first call reads, and as many (weight, bias) as make a cache cold."""
    key = jax.random.key(0)
    x: Any = jax.random.normal(key, (1, 1, rows, layer.inputs), HALF)
    if to != "bfloat16":
        x = quantise_rows(x.astype(jnp.float32), to)

    @jax.jit
    def draw(key: Array) -> Any:
        shape = (layer.inputs, layer.outputs)
        weight: Any = jax.random.normal(key, shape, HALF) * layer.inputs**-0.5
        bias = jax.random.normal(key, (layer.outputs,), HALF)
        if to != "bfloat16":
            weight = eight.quantise_weight(weight, to)
        return weight, bias if layer.biased else None

    size = layer.inputs * layer.outputs * (2 if to == "bfloat16" else 1)
    count = min(max(2, -(-int(COLD) // size)), 32)
    carry = x, jnp.zeros((1, 1, rows, layer.outputs), HALF)
    return carry, [draw(jax.random.fold_in(key, n)) for n in range(count)]


def step(layer: Layer, to: str, rival: str, config: Config | None = None) -> Step:
    """A step by "reference", "xla" or "mosaic"."""
    if to == "bfloat16":
        calls: dict[str, Callable[..., Array]] = {
            "reference": reference.linear,
            "xla": reference.linear_xla,
            "mosaic": functools.partial(mosaic.linear, config=config),
        }
    else:
        half = functools.partial
        dtype = jnp.dtype(HALF)
        calls = {
            "reference": half(reference_8bit.linear_8bit, dtype=dtype),
            "xla": half(reference_8bit.linear_xla, dtype=dtype),
            "mosaic": half(mosaic_8bit.linear_8bit, dtype=dtype, config=config),
        }

    def one(carry: Any, operands: Any) -> Any:
        # A number of each result goes into the next input: else XLA would merge equal
        # calls and take them out of the loop. It costs a tiny kernel, in every rival.
        x, last = carry
        seed = 0.01 + 1e-3 * jnp.abs(last[0, 0, 0, 0].astype(jnp.float32))
        if to == "bfloat16":
            x = x.at[0, 0, 0, 0].set(seed.astype(x.dtype))
        else:
            x = Quantised(x.values, x.scale.at[0, 0, 0].set(seed))
        weight, bias = operands
        parts = (weight,) if to == "bfloat16" else weight
        y = calls[rival](x, *parts, bias, None, None, activation=layer.activation)
        return x, y

    return one
