"""The Pallas-Triton kernels of frame attention.

Flash attention (Dao et al. 2022) with the keys shared out over a grid axis as in
flash decoding (Dao et al. 2023), for the frame cache's own layout:

  program (i, j, h, b): block i of the queries of stream b and head h, against the
                        frame slots j, j + split, j + 2 split, ...; the prompt's keys
                        go to j = 0

- K and V are read where they lie, [L, B, M, K, E], by strided blocks: no transpose, no
  slice of a layer, no join of slots.
- A slot has one bias a program. It is a scalar, so it joins the running maximum and
  costs nothing a logit: p = exp2(scale * dot - (maximum - bias)).
- The loop over an empty slot's keys has no iterations. What is left is never entirely
  masked, so the running maximum is finite from the first block on and needs no guard.
- Slots are dealt out round-robin: the anchor, empty in most streams, is frame slot 0
  and shares its program with the prompt.
- Maximum, sum and accumulator are float32; the exponentials are base 2.

With split > 1 each program writes its own normalised output and the base-2 logarithm
of its sum, float32, and `combine` weighs them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from pallas_kernels._compat import exp2, load, store
from pallas_kernels.blocks import joint_mask
from pallas_kernels.frame_attention.config import Config, padded
from pallas_kernels.frame_attention.problem import Problem

LOG2_E = 1.4426950408889634
Carry = tuple[Array, Array, Array]  # accumulator [Q, E], maximum [Q], sum [Q]


def dot(a: Array, b: Array, contract: int) -> Array:
    """a [R, X] times b over b's axis `contract`; float32, exact for float32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (contract,)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.float32,
    )


def attend(
    layer_ref: Any,
    bias_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    out_ref: Any,
    *lse_refs: Any,
    problem: Problem,
    config: Config,
    interpret: bool,
) -> None:
    """One program: a block of one frame's queries against its share of the slots.

    Refs: layer [1]; bias [L, G, S]; q [G * queries, E]; k, v [L, M, E]; out
    [G * queries, E] and, with a split, lse [G * queries]. E is padded to a power of
    two.
    """
    p, c = problem, config
    blocks = pl.cdiv(p.queries, c.block_q)
    group = pl.program_id(0) // blocks
    first = (pl.program_id(0) % blocks) * c.block_q
    share = pl.program_id(1)
    width = padded(p.width)
    columns = None if width == p.width else jnp.arange(width) < p.width
    ragged = p.queries % c.block_q != 0
    rows = first + jnp.arange(c.block_q) < p.queries if ragged else None
    here = pl.ds(group * p.queries + first, c.block_q)
    layer = layer_ref[0]
    scale = p.width**-0.5 * LOG2_E

    q = load(q_ref.at[here, :], joint_mask(rows, columns))  # [Q, E]

    def attend_slot(
        start: Any, length: int, bias: Array, block: int, mine: Any, carry: Carry
    ) -> Carry:
        def attend_block(i: Array, carry: Carry) -> Carry:
            acc, top, total = carry
            at = pl.ds(start + i * block, block)
            seen = i * block + jnp.arange(block) < length if length % block else None
            mask = joint_mask(seen, columns)
            k = load(k_ref.at[layer, at, :], mask)  # [M, E]
            dots = dot(q, k, 1)  # [Q, M]
            if seen is not None:
                dots = jnp.where(seen[None, :], dots, -jnp.inf)
            new_top = jnp.maximum(top, jnp.max(dots, axis=1) * scale + bias)
            shift = (new_top - bias)[:, None]
            weights = exp2(dots * scale - shift, interpret=interpret)
            decay = exp2(top - new_top, interpret=interpret)
            total = total * decay + jnp.sum(weights, axis=1)
            v = load(v_ref.at[layer, at, :], mask)  # [M, E]
            acc = acc * decay[:, None] + dot(weights.astype(v.dtype), v, 0)
            return acc, new_top, total

        wanted = mine & (bias > -jnp.inf)
        count = wanted.astype(jnp.int32) * pl.cdiv(length, block)
        return jax.lax.fori_loop(0, count, attend_block, carry)

    carry = (
        jnp.zeros((c.block_q, width), jnp.float32),
        jnp.full((c.block_q,), -jnp.inf, jnp.float32),
        jnp.zeros((c.block_q,), jnp.float32),
    )
    if p.prompt:
        bias = bias_ref[layer, group, 0] * LOG2_E
        block = min(c.block_k, padded(p.prompt))
        carry = attend_slot(0, p.prompt, bias, block, share == 0, carry)

    def attend_frame(i: Array, carry: Carry) -> Carry:
        slot = share + i * c.split
        bias = bias_ref[layer, group, slot + 1] * LOG2_E
        start = p.prompt + slot * p.keys
        return attend_slot(start, p.keys, bias, c.block_k, True, carry)

    frames = (p.frames - share + c.split - 1) // c.split
    acc, top, total = jax.lax.fori_loop(0, frames, attend_frame, carry)
    # A share whose slots are all empty has the sum 0: its output is 0, its lse -inf.
    out = acc / jnp.where(total == 0, 1.0, total)[:, None]
    store(out_ref.at[here, :], out.astype(out_ref.dtype), joint_mask(rows, columns))
    if lse_refs:
        store(lse_refs[0].at[here], top + jnp.log2(total), rows)


def combine(
    part_ref: Any, lse_ref: Any, out_ref: Any, *, problem: Problem, config: Config
) -> None:
    """Weighs the shares' outputs of a block of queries of one stream and head.

    Refs: part [split, G * queries, E], lse [split, G * queries], out [G * queries, E].
    """
    p, rows = problem, combined_rows(problem)
    count = p.groups * p.queries
    first = pl.program_id(0) * rows
    here = pl.ds(first, rows)
    seen = first + jnp.arange(rows) < count if count % rows else None
    width = padded(p.width)
    columns = None if width == p.width else jnp.arange(width) < p.width
    # All shares in one load: one after the other they would wait for memory each.
    shares = combined_shares(config)
    written = jnp.arange(shares) < config.split
    lse_mask = written[:, None] if seen is None else written[:, None] & seen[None]
    lse = load(lse_ref.at[:, here], lse_mask)  # [split, Q]
    lse = jnp.where(written[:, None], lse, -jnp.inf)
    weights = jnp.exp2(lse - jnp.max(lse, axis=0)[None])
    mask = joint_mask(seen, columns)
    part_mask = written[:, None, None]
    if mask is not None:
        part_mask = part_mask & mask[None]
    parts = load(part_ref.at[:, here, :], part_mask)  # [split, Q, E]
    out = jnp.sum(weights[:, :, None] * parts, axis=0)
    out = out / jnp.sum(weights, axis=0)[:, None]
    store(out_ref.at[here, :], out.astype(out_ref.dtype), mask)


def combined_shares(config: Config) -> int:
    """Shares that a program of `combine` reads at once, as a power of two."""
    return 1 << (config.split - 1).bit_length()


def combined_rows(problem: Problem) -> int:
    """Queries of a program of `combine`: few, so that there are many programs."""
    return min(1024 // padded(problem.width), padded(problem.queries))
