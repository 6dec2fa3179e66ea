"""The Pallas-Triton kernel of the 8-bit dense layer.

  program (i, j): block i of the rows, block j of the outputs

Both operands have their inputs side by side in memory, the weight transposed to
[outputs, inputs]: 8-bit matrix instructions read both that way, and a transposition in
flight exists for 16 bits only. The accumulator is int32 or float32 and meets its two
scales, one a row and one an output, after the loop; bias, activation, gate and residual
follow in float32, so the result goes to memory once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._compat import load, store
from pallas_kernels.blocks import joint_mask
from pallas_kernels.linear.epilogue import gelu
from pallas_kernels.linear.problem import Problem
from pallas_kernels.linear_8bit.config import Config


def linear(*refs: Any, problem: Problem, config: Config) -> None:
    """One program.

    Refs: x [R, K] and its scale [R]; weight [D, K] and its scale [D]; where there are
    such: bias [D], residual [R, D], gate [frames, D]; the result [R, D].
    """
    p, c, rest = problem, config, list(refs)
    x_ref, x_scale_ref, weight_ref, weight_scale_ref = (rest.pop(0) for _ in range(4))
    bias_ref = rest.pop(0) if p.biased else None
    residual_ref = rest.pop(0) if p.residual else None
    gate_ref = rest.pop(0) if p.gated else None
    (out_ref,) = rest

    first_row = pl.program_id(0) * c.block_m
    first_output = pl.program_id(1) * c.block_n
    row = first_row + jnp.arange(c.block_m)
    rows = row < p.rows if p.rows % c.block_m else None
    outputs = (
        first_output + jnp.arange(c.block_n) < p.outputs
        if p.outputs % c.block_n
        else None
    )
    here, there = pl.ds(first_row, c.block_m), pl.ds(first_output, c.block_n)

    whole = jnp.int32 if p.format == "int8" else jnp.float32

    def step(i, total):
        at = pl.ds(i * c.block_k, c.block_k)
        inner = None
        if p.inputs % c.block_k:
            inner = i * c.block_k + jnp.arange(c.block_k) < p.inputs
        x = load(x_ref.at[here, at], joint_mask(rows, inner))
        weight = load(weight_ref.at[there, at], joint_mask(outputs, inner))
        return total + jax.lax.dot_general(
            x, weight, (((1,), (1,)), ((), ())), preferred_element_type=whole
        )

    total = jnp.zeros((c.block_m, c.block_n), whole)
    total = jax.lax.fori_loop(0, pl.cdiv(p.inputs, c.block_k), step, total)
    y = total.astype(jnp.float32) * load(x_scale_ref.at[here], rows)[:, None]
    y = y * load(weight_scale_ref.at[there], outputs)[None, :]
    mask = joint_mask(rows, outputs)
    if bias_ref is not None:
        y = y + load(bias_ref.at[there], outputs).astype(jnp.float32)[None, :]
    if p.activation == "gelu":
        y = gelu(y)
    if gate_ref is not None:
        # One frame a row of gates; rows over the end read the last one's, masked.
        frame = jnp.minimum(row // p.tokens, p.frames - 1)
        column = first_output + jnp.arange(c.block_n)
        gates = load(gate_ref.at[frame[:, None], column[None, :]], mask)
        y = y * gates.astype(jnp.float32)
    if residual_ref is not None:
        y = y + load(residual_ref.at[here, there], mask).astype(jnp.float32)
    store(out_ref.at[here, there], y.astype(out_ref.dtype), mask)
