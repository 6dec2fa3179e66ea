"""The Pallas-Triton kernel of both modulated norms: one pass over memory.

A program owns a few whole rows (tokens of one frame), so that mean square, modulation
and, where it is wanted, the row's scale for 8 bits need no second look at them. The
width is padded to a power of two with masked loads. Everything is float32 between the
loads and the stores.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._compat import load, store
from pallas_kernels.blocks import joint_mask, padded
from pallas_kernels.eight_bit import row_scale, to_format
from pallas_kernels.modulated_norm.problem import Config, Problem
from pallas_kernels.modulated_norm.reference import EPSILON


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

    first, width = pl.program_id(1) * config.rows, padded(p.width)
    here = pl.ds(first, config.rows)
    rows = (
        first + jnp.arange(config.rows) < p.tokens if p.tokens % config.rows else None
    )
    columns = jnp.arange(width) < p.width if width != p.width else None
    mask = joint_mask(rows, columns)

    def vector(ref: Any) -> jax.Array:
        return load(ref.at[:], columns).astype(jnp.float32)[None, :]

    x = load(x_ref.at[here, :], mask).astype(jnp.float32)  # [R, D]
    if branch_ref is not None and total_ref is not None:
        branch = load(branch_ref.at[here, :], mask).astype(jnp.float32)
        # Rounded as it is stored: the norm is that of what the next layer reads.
        total = (x + branch * vector(gate_ref)).astype(total_ref.dtype)
        store(total_ref.at[here, :], total, mask)
        x = total.astype(jnp.float32)
    # Masked columns are 0 and add nothing.
    mean_square = jnp.sum(x * x, axis=1, keepdims=True) / p.width
    y = x * jax.lax.rsqrt(mean_square + EPSILON)
    y = y * (1 + vector(scale_ref)) + vector(shift_ref)
    if p.to is None:
        store(y_ref.at[here, :], y.astype(y_ref.dtype), mask)
        return
    found = row_scale(y, p.to)
    store(y_ref.at[here, :], to_format(y / found[:, None], p.to), mask)
    store(rest[0].at[here], found, rows)
