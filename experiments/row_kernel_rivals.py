"""The kernels that work on rows, and what XLA makes of the same work, to be timed.

A case has a carry that a step changes and sets of operands that it reads. Outputs that
the next call does not read pass an optimisation barrier, or XLA would leave them out.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments import dense_layers
from experiments.kernel_case import Case, same_operands
from pallas_kernels import linear_8bit as linear
from pallas_kernels.eight_bit import LARGEST, quantise_rows
from pallas_kernels.linear import mosaic
from pallas_kernels.linear_8bit import mosaic as linear_mosaic
from pallas_kernels.linear_8bit import triton as linear_triton
from pallas_kernels.modulated_norm import reference as norm
from pallas_kernels.modulated_norm import triton as norm_triton
from pallas_kernels.qk_norm_rope_commit import reference as commit
from pallas_kernels.qk_norm_rope_commit import triton as commit_triton
from pallas_kernels.quantise import triton as quantise_triton
from pallas_kernels.timing import Step

HALF = jnp.bfloat16
LAYERS = 4  # of the cache that a commit writes into


def _draw(seed: int, *shape: int, scale: float = 1.0) -> Array:
    drawn = scale * jax.random.normal(jax.random.key(seed), shape)
    return drawn.astype(HALF)


def _gated(call: Callable[..., Any]) -> Step:
    def step(carry: Any, operands: Any) -> Any:
        return jax.lax.optimization_barrier(call(*carry, *operands))

    return step


def norm_case(tokens: int, width: int, count: int, interpret: bool) -> Case:
    """The gated residual and the norm behind it, as between two layers."""
    shape = (1, 1, tokens, width)
    sets = [
        tuple(_draw(3 * n + i, 1, 1, width, scale=0.1) for i in range(3))
        for n in range(count)
    ]
    triton = functools.partial(norm_triton.gated_residual_norm, interpret=interpret)
    carry = _draw(1000, *shape), _draw(1001, *shape)
    return Case(
        op="gated_residual_norm",
        carry=carry,
        rivals=same_operands(
            {"triton": _gated(triton), "xla": _gated(norm.gated_residual_norm)},
            _gated(norm.gated_residual_norm),
            carry,
            sets,
        ),
        bytes_moved=4.0 * tokens * width * 2,
        flops=0.0,
        # Rounded to bfloat16 once by each, perhaps to either side.
        tolerance=1e-2,
    )


def commit_case(
    tokens: int, heads: int, width: int, count: int, interpret: bool
) -> Case:
    """A frame's q, k and v into the cache of several layers."""
    keys = 32 + 9 * tokens
    slots = (LAYERS, 1, keys, heads, width)
    angles = jnp.linspace(0.0, 6.0, tokens * width // 2).reshape(tokens, width // 2)

    def operands(number: int) -> Any:
        return (
            _draw(number, 1, tokens, 3, heads, width),
            jnp.ones((LAYERS, width)),
            jnp.ones((LAYERS, width)),
            jnp.cos(angles),
            jnp.sin(angles),
            jnp.int32(number % LAYERS),
            jnp.full(1, 32 + (number % 9) * tokens, jnp.int32),
        )

    def by(call: Callable[..., Any]) -> Step:
        def step(carry: Any, operands: Any) -> Any:
            *rows, layer, starts = operands
            _, k, v = carry
            return jax.lax.optimization_barrier(call(*rows, k, v, layer, starts))

        return step

    triton = functools.partial(commit_triton.qk_norm_rope_commit, interpret=interpret)
    q = jnp.zeros((1, tokens, heads, width), HALF)
    carry = q, _draw(1000, *slots), _draw(1001, *slots)
    return Case(
        op="qk_norm_rope_commit",
        carry=carry,
        rivals=same_operands(
            {"triton": by(triton), "xla": by(commit.qk_norm_rope_commit)},
            by(commit.qk_norm_rope_commit),
            carry,
            [operands(number) for number in range(count)],
        ),
        bytes_moved=6.0 * tokens * heads * width * 2,
        flops=0.0,
        tolerance=1e-2,
    )


def _mlp_bfloat16(h: Array, operands: Any) -> Array:
    """Two dense layers as XLA does them today."""
    up, _, down, _ = operands["float"]
    y = jax.nn.gelu(h @ up)
    return h + operands["gate"][:, :, None] * (y @ down)


def _mlp_exact(h: Array, operands: Any) -> Array:
    up, _, down, _ = (x.astype(jnp.float32) for x in operands["float"])
    wide = h.astype(jnp.float32)
    gate = operands["gate"].astype(jnp.float32)[:, :, None]
    return wide + gate * (jax.nn.gelu(wide @ up) @ down)


def _mlp_mosaic(h: Array, operands: Any) -> Array:
    """The same as two kernels."""
    up, _, down, _ = operands["float"]
    y = mosaic.linear(h, up, None, None, None, activation="gelu")
    return mosaic.linear(y, down, None, h, operands["gate"], activation=None)


def _quantise_xla(x: Array, to: str) -> Any:
    return quantise_rows(x.astype(jnp.float32), to)


def _mlp_8bit(
    h: Array,
    operands: Any,
    *,
    to: str,
    call: Callable[..., Any],
    quantise: Callable[[Array, str], Any] = _quantise_xla,
) -> Array:
    """The same in 8 bits, both quantisations of activations included."""
    up, down = operands[to]
    y = call(quantise(h, to), *up, None, None, None, "gelu")
    return call(quantise(y, to), *down, None, h, operands["gate"], None)


def mlp_case(tokens: int, width: int, hidden: int, count: int, interpret: bool) -> Case:
    """The MLP of one layer: the 880M model has 30 of them."""

    def operands(number: int) -> Any:
        up = _draw(2 * number, width, hidden, scale=width**-0.5)
        down = _draw(2 * number + 1, hidden, width, scale=hidden**-0.5)
        eight = {
            to: (linear.quantise_weight(up, to), linear.quantise_weight(down, to))
            for to in LARGEST
        }
        gate = _draw(number, 1, 1, width, scale=0.1)
        return eight | {"float": (up, gate, down, gate), "gate": gate}

    def triton(x, weight, scale, bias, residual, gate, activation):
        return linear_triton.linear_8bit(
            *(x, weight, scale, bias, residual, gate),
            activation=activation,
            dtype=jnp.dtype(HALF),
            interpret=interpret,
        )

    def xla(x, weight, scale, bias, residual, gate, activation):
        return linear.linear_8bit(
            x,
            linear.Weight8(weight, scale),
            bias,
            activation=activation,
            residual=residual,
            gate=gate,
        )

    def hopper(x, weight, scale, bias, residual, gate, activation):
        return linear_mosaic.linear_8bit(
            *(x, weight, scale, bias, residual, gate),
            activation=activation,
            dtype=jnp.dtype(HALF),
        )

    carry = _draw(1000, 1, 1, tokens, width)
    steps: dict[str, Step] = {
        "xla_bfloat16": _mlp_bfloat16,
        "mosaic_bfloat16": _mlp_mosaic,
    }
    by_triton = functools.partial(quantise_triton.quantise, interpret=interpret)
    for to in LARGEST:
        steps[f"mosaic_{to}"] = functools.partial(
            _mlp_8bit, to=to, call=hopper, quantise=by_triton
        )
        for name, call in (("triton", triton), ("xla", xla)):
            step = functools.partial(_mlp_8bit, to=to, call=call)
            steps[f"{name}_{to}"] = step
    return Case(
        op="mlp_8bit",
        carry=carry,
        rivals=same_operands(
            steps, _mlp_exact, carry, [operands(number) for number in range(count)]
        ),
        bytes_moved=2.0 * width * hidden,
        # 8-bit matrix units do twice the operations of 16-bit ones.
        flops=4.0 * tokens * width * hidden / 2,
        # The residual is exact; the branch, a tenth of it, has a few percent of error.
        tolerance=1e-2,
    )


def linear_case(name: str, rows: int) -> Case:
    """One dense layer of the 880M model in bfloat16."""
    to, layer = "bfloat16", dense_layers.LAYERS[name]
    carry, sets = dense_layers.operands(layer, rows, to)
    numbers = rows * (layer.inputs + layer.outputs) + layer.inputs * layer.outputs
    return Case(
        op="linear",
        carry=carry,
        rivals=same_operands(
            {n: dense_layers.step(layer, to, n) for n in ("mosaic", "xla")},
            dense_layers.step(layer, to, "reference"),
            carry,
            sets,
        ),
        bytes_moved=2.0 * numbers,
        flops=2.0 * rows * layer.inputs * layer.outputs,
        tolerance=1e-2,
    )


def row_cases(interpret: bool) -> dict[str, Callable[[], Case]]:
    """By name, made when asked for: the bars' shapes, or tiny ones for a test."""
    make = functools.partial
    if interpret:
        return {
            "norm_tiny": make(norm_case, 9, 40, 2, True),
            "commit_tiny": make(commit_case, 5, 2, 16, 2, True),
            "mlp_tiny": make(mlp_case, 9, 64, 96, 2, True),
        }
    found: dict[str, Callable[[], Case]] = {
        "norm_256": make(norm_case, 256, 1536, 8, False),
        "norm_1024": make(norm_case, 1024, 1536, 8, False),
        "commit_256": make(commit_case, 256, 12, 128, 8, False),
        "commit_1024": make(commit_case, 1024, 12, 128, 8, False),
        # Four sets of weights in 8 bits are more than an L2 cache holds.
        "mlp_256": make(mlp_case, 256, 1536, 6144, 4, False),
        "mlp_1024": make(mlp_case, 1024, 1536, 6144, 4, False),
    }
    for name in dense_layers.LAYERS:
        found[f"linear_{name}_256"] = make(linear_case, name, 256)
    return found
