"""The modulated norms by Pallas-Triton; the gradient by XLA.

The backward pass differentiates the definition: XLA fuses it into two passes over
memory, and training spends its time in matrix products.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels import choice, device
from pallas_kernels._compat import triton_call
from pallas_kernels.blocks import padded
from pallas_kernels.eight_bit import Quantised
from pallas_kernels.modulated_norm import reference
from pallas_kernels.modulated_norm.kernel import norm
from pallas_kernels.modulated_norm.problem import (
    OP,
    Config,
    Problem,
    default_config,
    problem_of,
)

DTYPES = ("bfloat16", "float16", "float32")
WIDEST = 8192


def _forward(
    operands: tuple[Array, ...], problem: Problem, config: Config, interpret: bool
) -> tuple[Array, ...]:
    """Calls the kernel; operands and results as its docstring lists them."""
    p, x = problem, operands[0]
    lead, width = x.shape[:2], padded(p.width)
    matrix = pl.BlockSpec((None, p.tokens + config.rows, width), lambda i, j: (i, 0, 0))
    vector = pl.BlockSpec((None, width), lambda i, j: (i, 0))
    joined: tuple[int, ...] = (p.frames, p.width)
    whole = []
    if p.layers:
        # Programs index by themselves: a block is the whole axis.
        vector = pl.BlockSpec((p.layers, None, width), lambda i, j: (0, i, 0))
        joined = (p.layers, *joined)
        whole = [pl.BlockSpec((1,), lambda i, j: (0,))]
    matrices, vectors = (2, 3) if p.gated else (1, 2)
    shapes = [(p.frames, p.tokens, p.width)] * matrices + [joined] * vectors
    shapes += [(1,)] * len(whole)
    flat = [o.reshape(shape) for o, shape in zip(operands, shapes, strict=True)]
    column = pl.BlockSpec((None, p.tokens + config.rows), lambda i, j: (i, 0))
    shape = (p.frames, p.tokens, p.width)
    y_dtype = x.dtype if p.to is None else jnp.dtype(p.to)
    out_shape = [jax.ShapeDtypeStruct(shape, y_dtype)]
    out_specs = [matrix]
    if p.gated:
        out_shape.insert(0, jax.ShapeDtypeStruct(shape, x.dtype))
        out_specs.insert(0, matrix)
    if p.to is not None:
        out_shape.append(jax.ShapeDtypeStruct(shape[:2], jnp.float32))
        out_specs.append(column)
    found = triton_call(
        functools.partial(norm, problem=p, config=config, interpret=interpret),
        name="gated_residual_norm" if p.gated else "modulated_norm",
        num_warps=config.num_warps,
        num_stages=1,
        interpret=interpret,
        grid=(p.frames, pl.cdiv(p.tokens, config.rows)),
        in_specs=[matrix] * matrices + [vector] * vectors + whole,
        out_shape=out_shape,
        out_specs=out_specs,
    )(*flat)
    return tuple(o.reshape(*lead, *o.shape[1:]) for o in found)


def _definition(operands: tuple[Array, ...], problem: Problem) -> tuple[Array, ...]:
    if problem.gated:
        return reference.gated_residual_norm(*operands)  # type: ignore[return-value]
    return (reference.modulated_norm(*operands),)  # type: ignore[return-value]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _norm(operands, problem, config, interpret):
    return _forward(operands, problem, config, interpret)


def _norm_forward(operands, problem, config, interpret):
    return _norm(operands, problem, config, interpret), operands


def _norm_backward(problem, config, interpret, operands, cotangents):
    if problem.to is not None:
        raise NotImplementedError(f"8 bits have no gradient: {problem.to=}")
    _, pull = jax.vjp(lambda o: _definition(o, problem), operands)
    return pull(cotangents)


_norm.defvjp(_norm_forward, _norm_backward)


def _call(
    operands: tuple[Array, ...],
    gated: bool,
    layers: int,
    to: str | None,
    config: Config | None,
    interpret: bool,
) -> tuple[Array, ...]:
    x = operands[0]
    problem = problem_of(x, gated, to, layers)
    if problem.dtype not in DTYPES:
        raise NotImplementedError(f"the kernel takes one of {DTYPES}: {x.dtype=}")
    if problem.width > WIDEST:
        raise NotImplementedError(f"rows wider than {WIDEST}: {problem.width=}")
    card = None if interpret else device.present()
    if not interpret and (card is None or card.capability < device.LEAST_CAPABILITY):
        raise NotImplementedError(
            f"the kernel needs an Ampere GPU or newer, not {card}"
        )
    if to == "float8_e4m3fn" and card is not None and card.capability < (8, 9):
        raise NotImplementedError(f"{card.kind} has no float8")
    if config is None and card is not None:
        config = choice.tuned_config(OP, problem, card, "triton")
    return _norm(operands, problem, config or default_config(problem), interpret)


def modulated_norm(
    x: Float[Array, "B G N D"],
    scale: Float[Array, "B G D"],
    shift: Float[Array, "B G D"],
    *,
    to: str | None = None,
    config: Config | None = None,
    interpret: bool = False,
) -> Any:
    """See `api.modulated_norm`.

    Args:
      config: how to cut the work; None takes the measured one, or a safe default.
      interpret: run on any device, slowly, for tests.

    Raises:
      NotImplementedError: no NVIDIA GPU that can, or operands that the kernel cannot
        take.
    """
    found = _call((x, scale, shift), False, 0, to, config, interpret)
    return found[0] if to is None else Quantised(*found)


def gated_residual_norm(
    x: Float[Array, "B G N D"],
    branch: Float[Array, "B G N D"],
    gate: Float[Array, "*L B G D"],
    scale: Float[Array, "*L B G D"],
    shift: Float[Array, "*L B G D"],
    layer: Int[Array, ""] | int | None = None,
    *,
    to: str | None = None,
    config: Config | None = None,
    interpret: bool = False,
) -> Any:
    """See `api.gated_residual_norm`; the rest as `modulated_norm`."""
    layers = 0 if layer is None else gate.shape[0]
    index = () if layer is None else (jnp.asarray(layer, jnp.int32),)
    operands = (x, branch, gate, scale, shift, *index)
    total, *y = _call(operands, True, layers, to, config, interpret)
    return total, (y[0] if to is None else Quantised(*y))
