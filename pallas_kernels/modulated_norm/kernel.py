"""The Pallas-Triton kernel of both modulated norms: one pass over memory.

A program owns a few whole rows (tokens of one frame), so that mean square, modulation
and, where it is wanted, the row's scale for 8 bits need no second look at them. A row
lies in pieces of a power of two, side by side: 1536 numbers are three pieces of 512,
without a mask and without idle lanes.

What bounds it is latency: a row is 3 KiB. So everything is asked for before anything is
used, the modulation too, and one wait is all there is; and the warps of a program meet
once, for the sum over a row. Everything is float32 between the loads and the stores.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._compat import load, store
from pallas_kernels.blocks import joint_mask, pieces
from pallas_kernels.eight_bit import row_scale, to_format
from pallas_kernels.modulated_norm.problem import Config, Problem
from pallas_kernels.modulated_norm.reference import EPSILON


def _wide(blocks: Iterable[jax.Array]) -> list[jax.Array]:
    return [block.astype(jnp.float32) for block in blocks]


def norm(*refs: Any, problem: Problem, config: Config) -> None:
    """One program.

    Refs: x [N, D]; with a gate: branch [N, D] and gate [D]; scale and shift [D]. Then
    the results: with a gate total [N, D]; y [N, D]; with 8 bits the rows' scale [N].
    """
    p, rest = problem, list(refs)
    x_ref = rest.pop(0)
    branch_ref, gate_ref = (rest.pop(0), rest.pop(0)) if p.gated else (None, None)
    scale_ref, shift_ref = rest.pop(0), rest.pop(0)
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

    def vector(ref: Any) -> list[jax.Array]:
        return [load(ref.at[end], columns)[None, :] for end in ends]

    # The order of the code is the order of the requests, and no wait is among them.
    x = matrix(x_ref)
    branch = [] if branch_ref is None else matrix(branch_ref)
    gate = [] if gate_ref is None else vector(gate_ref)
    scale, shift = vector(scale_ref), vector(shift_ref)

    x, scale, shift = _wide(x), _wide(scale), _wide(shift)
    if total_ref is not None:
        addends = zip(x, _wide(branch), _wide(gate), strict=True)
        # Rounded as it is stored: the norm is that of what the next layer reads.
        total = [(x + b * g).astype(total_ref.dtype) for x, b, g in addends]
        for end, block in zip(ends, total, strict=True):
            store(total_ref.at[here, end], block, mask)
        x = _wide(total)
    # Masked columns are 0 and add nothing. One sum over a row, whatever its pieces.
    squares = functools.reduce(operator.add, [block * block for block in x])
    mean_square = jnp.sum(squares, axis=1, keepdims=True) * (1 / p.width)
    gain = jax.lax.rsqrt(mean_square + EPSILON)
    y = [
        block * gain * (1 + a) + b for block, a, b in zip(x, scale, shift, strict=True)
    ]
    if p.to is None:
        for end, block in zip(ends, y, strict=True):
            store(y_ref.at[here, end], block.astype(y_ref.dtype), mask)
        return
    largest = functools.reduce(jnp.maximum, [jnp.abs(block) for block in y])
    found = row_scale(largest, p.to)
    for end, block in zip(ends, y, strict=True):
        store(y_ref.at[here, end], to_format(block / found[:, None], p.to), mask)
    store(rest[0].at[here], found, rows)
