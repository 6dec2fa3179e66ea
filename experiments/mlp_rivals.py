"""The MLP of one layer in both precisions, to be timed as a whole."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.kernel_case import Case, same_operands
from experiments.row_kernel_rivals import HALF, draw
from pallas_kernels import linear_8bit as linear
from pallas_kernels.eight_bit import LARGEST, quantise_rows
from pallas_kernels.linear import mosaic
from pallas_kernels.linear_8bit import mosaic as linear_mosaic
from pallas_kernels.linear_8bit import triton as linear_triton
from pallas_kernels.quantise import triton as quantise_triton
from pallas_kernels.timing import Step


def _mlp_bfloat16(h: Array, operands: Any) -> Array:
    """Two dense layers as XLA does them."""
    up, up_bias, down, down_bias = operands["float"]
    y = jax.nn.gelu(h @ up + up_bias[None, None, None])
    return y @ down + down_bias[None, None, None]


def _mlp_exact(h: Array, operands: Any) -> Array:
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), operands["float"])
    return _mlp_bfloat16(h.astype(jnp.float32), {"float": wide})


def _mlp_mosaic(h: Array, operands: Any) -> Array:
    """The same as two kernels."""
    up, up_bias, down, down_bias = operands["float"]
    y = mosaic.linear(h, up, up_bias, None, None, activation="gelu")
    return mosaic.linear(y, down, down_bias, None, None, activation=None)


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
    (up, down), (_, up_bias, _, down_bias) = operands[to], operands["float"]
    y = call(quantise(h, to), *up, up_bias, activation="gelu")
    return call(quantise(y, to), *down, down_bias, activation=None)


def mlp_case(tokens: int, width: int, hidden: int, count: int, interpret: bool) -> Case:
    """The MLP of one layer: the 880M model has 30 of them."""

    def operands(number: int) -> Any:
        up = draw(4 * number, width, hidden, scale=width**-0.5)
        up_bias = draw(4 * number + 1, hidden)
        down = draw(4 * number + 2, hidden, width, scale=hidden**-0.5)
        down_bias = draw(4 * number + 3, width)
        eight = {
            to: (linear.quantise_weight(up, to), linear.quantise_weight(down, to))
            for to in LARGEST
        }
        return eight | {"float": (up, up_bias, down, down_bias)}

    def triton(x, weight, scale, bias, activation):
        return linear_triton.linear_8bit(
            *(x, weight, scale, bias, None, None),
            activation=activation,
            dtype=jnp.dtype(HALF),
            interpret=interpret,
        )

    def xla(x, weight, scale, bias, activation):
        return linear.linear_8bit(
            x,
            linear.Weight8(weight, scale),
            bias,
            activation=activation,
            backend="xla",
        )

    def hopper(x, weight, scale, bias, activation):
        return linear_mosaic.linear_8bit(
            *(x, weight, scale, bias, None, None),
            activation=activation,
            dtype=jnp.dtype(HALF),
        )

    carry = draw(1000, 1, 1, tokens, width)
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
        # Of float8, which rounds a number by up to a sixteenth; the rest is far better.
        tolerance=6e-2,
    )
