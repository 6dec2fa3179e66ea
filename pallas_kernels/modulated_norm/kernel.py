"""The Pallas-Triton kernel of both modulated norms: one pass over memory.

A program owns a few whole rows (tokens of one frame), so that mean square, modulation
and, where it is wanted, the row's scale for 8 bits need no second look at them. A row
lies in pieces of a power of two, side by side: 1536 numbers are three pieces of 512,
without a mask and without idle lanes.

What bounds it is latency, as a row is 3 KiB. So everything is asked for before anything
is used, the modulation too, and a program waits for memory once. Its warps meet once
more, for the sum over a row. Between the loads and the stores everything is float32,
except the residual's sum of bfloat16 numbers, which is exact until it is rounded.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._compat import load, multiply_add, requested, store
from pallas_kernels.blocks import joint_mask, pieces
from pallas_kernels.eight_bit import row_scale, to_format
from pallas_kernels.modulated_norm.problem import Config, Problem
from pallas_kernels.modulated_norm.reference import EPSILON


def _wide(blocks: Iterable[jax.Array]) -> list[jax.Array]:
    return [block.astype(jnp.float32) for block in blocks]


def norm(*refs: Any, problem: Problem, config: Config, interpret: bool) -> None:
    """One program.

    Refs: x [N, D]; with a gate: branch [N, D] and gate [D]; scale and shift [D]; with
    layers: gate, scale and shift [L, D], and layer [1]. Then the results: with a gate
    total [N, D]; y [N, D]; with 8 bits the rows' scale [N].
    """
    p, rest = problem, list(refs)
    x_ref = rest.pop(0)
    branch_ref, gate_ref = (rest.pop(0), rest.pop(0)) if p.gated else (None, None)
    scale_ref, shift_ref = rest.pop(0), rest.pop(0)
    layer = (rest.pop(0)[0],) if p.layers else ()
    total_ref = rest.pop(0) if p.gated else None
    y_ref = rest.pop(0)

    first, (size, count) = pl.program_id(1) * config.rows, pieces(p.width)
    here = pl.ds(first, config.rows)
    rows = (
        first + jnp.arange(config.rows) < p.tokens if p.tokens % config.rows else None
    )
    columns = jnp.arange(size) < p.width if size * count > p.width else None
    mask = joint_mask(rows, columns)
    ends = [pl.ds(piece * size, size) for piece in range(count)]

    def matrix(ref: Any) -> list[jax.Array]:
        return [load(ref.at[here, end], mask) for end in ends]

    # A vector has the threads of the rows where each thread loads 16 bytes of it, or
    # where there is one row. Else it would change threads by shared memory, with all
    # warps waiting: so it is read once a row.
    lanes = 32 * config.num_warps
    shared = config.rows == 1 or size % (lanes * (16 // x_ref.dtype.itemsize)) == 0
    every = jnp.zeros((config.rows, 1), jnp.int32)

    def vector(ref: Any) -> list[jax.Array]:
        if shared:
            return [load(ref.at[*layer, end], columns)[None, :] for end in ends]
        block = every + jnp.arange(size)[None, :]
        starts = range(0, size * count, size)
        return [load(ref.at[*layer, block + start], mask) for start in starts]

    fma = functools.partial(multiply_add, interpret=interpret)

    # The residual comes last, because it is used first: see `requested`.
    gate = [] if gate_ref is None else vector(gate_ref)
    scale, shift = vector(scale_ref), vector(shift_ref)
    requested(interpret=interpret)
    x = matrix(x_ref)
    branch = [] if branch_ref is None else matrix(branch_ref)

    if total_ref is not None:
        # Rounded as it is stored: the norm is that of what the next layer reads.
        if all(o[0].dtype == jnp.bfloat16 for o in (x, branch, gate)):
            x = [fma(*three) for three in zip(branch, gate, x, strict=True)]
        else:
            addends = zip(_wide(branch), _wide(gate), _wide(x), strict=True)
            x = [fma(*three).astype(total_ref.dtype) for three in addends]
        for end, block in zip(ends, x, strict=True):
            store(total_ref.at[here, end], block, mask)
    x, scale, shift = _wide(x), _wide(scale), _wide(shift)
    # Masked columns are 0 and add nothing. One sum over a row, whatever its pieces.
    squares = x[0] * x[0]
    for block in x[1:]:
        squares = fma(block, block, squares)
    mean_square = jnp.sum(squares, axis=1, keepdims=True) * (1 / p.width)
    gain = jax.lax.rsqrt(mean_square + EPSILON)
    parts = zip(x, scale, shift, strict=True)
    y = [fma(block * gain, 1 + a, b) for block, a, b in parts]
    if p.to is None:
        for end, block in zip(ends, y, strict=True):
            store(y_ref.at[here, end], block.astype(y_ref.dtype), mask)
        return
    largest = functools.reduce(jnp.maximum, [jnp.abs(block) for block in y])
    found = row_scale(largest, p.to)
    for end, block in zip(ends, y, strict=True):
        store(y_ref.at[here, end], to_format(block / found[:, None], p.to), mask)
    store(rest[0].at[here], found, rows)
