"""The Pallas-Triton kernels of frame attention's gradient.

As in FlashAttention-2 (Dao 2023) nothing of queries x keys was kept: the weights are
computed again from the logarithm of their sum, once for the keys' and values' gradient
and once for the queries'. So no two programs add to one place:

  keys_and_values (j, h, b): block j of the keys of all slots, the prompt's first,
                             against the queries of the frames that see its slot
  queries (i, h, b):         block i of the queries against the slots that it sees

What sees a slot, or is seen by a frame, is a range in a training clip, but for the
first frame slot, which may be an anchor. So a program has one loop over blocks from the
first to the last of the range, which the compiler overlaps with the loads; what is
hidden within it has the bias -inf and weighs nothing, if it is finite.

Weights are base 2, w = exp2(scale * dot + bias - lse), and with delta, the sum over
channels of output x its slope, a logit's slope is w * (slope . v - delta).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from pallas_kernels._compat import exp2, load, store
from pallas_kernels.blocks import joint_mask
from pallas_kernels.frame_attention.config import Blocks, padded
from pallas_kernels.frame_attention.kernel import LOG2_E, dot
from pallas_kernels.frame_attention.problem import Problem


def _range(bias: Array, first: int, count: int) -> tuple[Array, Array]:
    """First of the seen from `first` on, and how many there are up to the last."""
    index = jnp.arange(bias.shape[0])
    seen = (bias > -jnp.inf) & (index >= first) & (index < count)
    begin = jnp.min(jnp.where(seen, index, count))
    end = jnp.max(jnp.where(seen, index + 1, 0))
    return begin, jnp.maximum(end - begin, 0)


def _place(index: Any, parts: int) -> tuple[Array, Array]:
    """Which whole, and which of its `parts`: without Python's care for what is < 0."""
    parts = jnp.int32(parts)
    return jax.lax.div(index, parts), jax.lax.rem(index, parts)


def keys_and_values(
    bias_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    slope_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    dbias_ref: Any,
    *,
    problem: Problem,
    blocks: Blocks,
    interpret: bool,
) -> None:
    """One program: the gradient of a block of keys and values of one slot.

    Refs: bias [G, S]; q, slope [G * queries, E]; k, v, dk, dv [M, E]; lse, delta
    [G * queries]; dbias [G * blocks of queries]: each block's part of this program's.
    What no query of a frame sees is not written in dbias.
    """
    p = problem
    width, size = padded(p.width), blocks.keys
    columns = None if width == p.width else jnp.arange(width) < p.width
    of_prompt, of_frame = pl.cdiv(p.prompt, size), pl.cdiv(p.keys, size)
    at = pl.program_id(0)
    in_prompt = at < of_prompt
    frame, part = _place(jnp.maximum(at - of_prompt, 0), of_frame)
    slot = jnp.where(in_prompt, 0, frame + 1)
    begin = jnp.where(in_prompt, at * size, p.prompt + frame * p.keys + part * size)
    left = jnp.where(in_prompt, p.prompt - at * size, p.keys - part * size)
    ragged = p.prompt % size or p.keys % size
    real = jnp.arange(size) < left if ragged else None
    here, mask = pl.ds(begin, size), joint_mask(real, columns)
    k, v = load(k_ref.at[here, :], mask), load(v_ref.at[here, :], mask)
    scale = p.width**-0.5

    per_frame = pl.cdiv(p.queries, blocks.queries)
    cut = p.queries % blocks.queries
    frames = jnp.arange(padded(p.groups))
    bias = load(bias_ref.at[:, slot], frames < p.groups)
    first, seen = _range(bias, 0, p.groups)

    def attend_block(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        further, part = _place(i, per_frame)
        group, start = first + further, part * blocks.queries
        rows = start + jnp.arange(blocks.queries) < p.queries if cut else None
        there = pl.ds(group * p.queries + start, blocks.queries)
        q = load(q_ref.at[there, :], joint_mask(rows, columns))
        slope = load(slope_ref.at[there, :], joint_mask(rows, columns))
        lse, delta = load(lse_ref.at[there], rows), load(delta_ref.at[there], rows)
        shift = bias_ref[group, slot] * LOG2_E - lse
        # Keys are the rows, so that the weights need not be turned for dk and dv.
        logits = dot(k, q, 1) * (scale * LOG2_E) + shift[None, :]
        weights = exp2(logits, interpret=interpret)  # [M, Q]
        if rows is not None:
            weights = jnp.where(rows[None, :], weights, 0.0)
        dv += dot(weights.astype(v.dtype), slope, 0)
        slopes = weights * (dot(v, slope, 1) - delta[None, :])
        dk += dot(slopes.astype(k.dtype), q, 0)
        total = jnp.sum(slopes, axis=1)
        if real is not None:
            total = jnp.where(real, total, 0.0)
        dbias_ref[group * per_frame + part] = jnp.sum(total)
        return dk, dv

    zero = jnp.zeros((size, width), jnp.float32)
    dk, dv = jax.lax.fori_loop(0, seen * per_frame, attend_block, (zero, zero))
    store(dk_ref.at[here, :], (dk * scale).astype(dk_ref.dtype), mask)
    store(dv_ref.at[here, :], dv.astype(dv_ref.dtype), mask)


def queries(
    bias_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    slope_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    dq_ref: Any,
    *,
    problem: Problem,
    blocks: Blocks,
    interpret: bool,
) -> None:
    """One program: the gradient of a block of one frame's queries.

    Refs as in `keys_and_values`; dq [G * queries, E].
    """
    p = problem
    width = padded(p.width)
    columns = None if width == p.width else jnp.arange(width) < p.width
    per_frame = pl.cdiv(p.queries, blocks.queries)
    group, part = _place(pl.program_id(0), per_frame)
    start = part * blocks.queries
    cut = p.queries % blocks.queries
    rows = start + jnp.arange(blocks.queries) < p.queries if cut else None
    here = pl.ds(group * p.queries + start, blocks.queries)
    mask = joint_mask(rows, columns)
    q, slope = load(q_ref.at[here, :], mask), load(slope_ref.at[here, :], mask)
    lse, delta = load(lse_ref.at[here], rows), load(delta_ref.at[here], rows)
    scale = p.width**-0.5

    def attend(
        begin: Any, left: Any, size: int, length: int, bias: Array, dq: Array
    ) -> Array:
        """Adds what `size` keys from `begin` on give, `left` to the slot's end."""
        real = jnp.arange(size) < left if length % size else None
        there = pl.ds(begin, size)
        k = load(k_ref.at[there, :], joint_mask(real, columns))
        v = load(v_ref.at[there, :], joint_mask(real, columns))
        logits = dot(q, k, 1) * (scale * LOG2_E) + (bias * LOG2_E - lse)[:, None]
        weights = exp2(logits, interpret=interpret)  # [Q, M]
        if real is not None:
            weights = jnp.where(real[None, :], weights, 0.0)
        slopes = weights * (dot(slope, v, 1) - delta[:, None])
        return dq + dot(slopes.astype(k.dtype), k, 0)

    of_frame = pl.cdiv(p.keys, blocks.keys)

    def attend_frames(first: Any, count: Any, dq: Array) -> Array:
        def attend_block(i: Array, dq: Array) -> Array:
            further, part = _place(i, of_frame)
            frame, into = first + further, part * blocks.keys
            bias = bias_ref[group, frame + 1]
            begin = p.prompt + frame * p.keys + into
            return attend(begin, p.keys - into, blocks.keys, p.keys, bias, dq)

        return jax.lax.fori_loop(0, count * of_frame, attend_block, dq)

    dq = jnp.zeros((blocks.queries, width), jnp.float32)
    if p.prompt:
        size = min(blocks.keys, padded(p.prompt))
        bias = bias_ref[group, 0]
        wanted = (bias > -jnp.inf).astype(jnp.int32) * pl.cdiv(p.prompt, size)
        dq = jax.lax.fori_loop(
            0,
            wanted,
            lambda i, dq: attend(
                i * size, p.prompt - i * size, size, p.prompt, bias, dq
            ),
            dq,
        )
    dq = attend_frames(0, (bias_ref[group, 1] > -jnp.inf).astype(jnp.int32), dq)
    slots = jnp.arange(padded(p.frames + 1))
    bias = load(bias_ref.at[group, :], slots <= p.frames)
    first, seen = _range(bias, 2, p.frames + 1)
    dq = attend_frames(first - 1, seen, dq)
    store(dq_ref.at[here, :], (dq * scale).astype(dq_ref.dtype), mask)
