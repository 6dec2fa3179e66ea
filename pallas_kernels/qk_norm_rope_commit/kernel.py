"""The Pallas-Triton kernel of the commit: one pass from the projection to the cache.

  program (i, h, b): block i of the tokens of stream b, head h

reads the head's q, k and v of its tokens where the projection wrote them, and writes
q, normalised and rotated, for the attention that follows, and k and v straight into
their ring slot of the cache, whose arrays are the outputs by aliasing: nothing else of
the cache is touched, read or copied. Channels are held as two halves, because RoPE
pairs channel c with c + E / 2, and Triton cannot slice a block.

What bounds it is latency, so everything is asked for before anything is used, and a
program waits for memory once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._compat import load, multiply_add, requested, store
from pallas_kernels.blocks import joint_mask, padded
from pallas_kernels.qk_norm_rope_commit.problem import Config, Problem
from pallas_kernels.qk_norm_rope_commit.reference import EPSILON

Halves = tuple[jax.Array, jax.Array]


def commit(
    layer_ref: Any,
    starts_ref: Any,
    qkv_ref: Any,
    q_scale_ref: Any,
    k_scale_ref: Any,
    cos_ref: Any,
    sin_ref: Any,
    k_before: Any,
    v_before: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    *,
    problem: Problem,
    config: Config,
    interpret: bool,
) -> None:
    """One program.

    Refs: layer [1]; starts [G]; qkv [G * N, 3, E]; scales [L, E]; cos and sin
    [G * N, E / 2]; k and v [L, M, E] as they were; then the results q [G * N, E] and
    k and v again.
    """
    del k_before, v_before  # the outputs are the same memory
    p, c = problem, config
    blocks = pl.cdiv(p.tokens, c.rows)
    group = pl.program_id(0) // blocks
    first = (pl.program_id(0) % blocks) * c.rows
    half, wide = p.width // 2, padded(p.width // 2)
    rows = first + jnp.arange(c.rows) < p.tokens if p.tokens % c.rows else None
    columns = jnp.arange(wide) < half if wide != half else None
    # Masked channels would fall into the other half, or the next head.
    mask = joint_mask(rows, columns)
    here = pl.ds(group * p.tokens + first, c.rows)
    slot = pl.ds(starts_ref[group] + first, c.rows)
    layer = layer_ref[0]
    ends = pl.ds(0, wide), pl.ds(half, wide)

    def part(number: int) -> Halves:
        at = jnp.int32(number)  # the interpreter of jax 0.10 takes no plain number
        low, high = (load(qkv_ref.at[here, at, end], mask) for end in ends)
        return low, high

    def scales(ref: Any) -> Halves:
        low, high = (load(ref.at[layer, end], columns) for end in ends)
        return low, high

    # q and k come last, because they are used first: see `requested`.
    v = part(2)
    cos, sin = load(cos_ref.at[here, :], mask), load(sin_ref.at[here, :], mask)
    q_scale, k_scale = scales(q_scale_ref), scales(k_scale_ref)
    requested(interpret=interpret)
    q, k = part(0), part(1)

    fma = functools.partial(multiply_add, interpret=interpret)

    def unit(halves: Halves, scale: Halves) -> Halves:
        low, high = (x.astype(jnp.float32) for x in halves)
        power = jnp.sum(fma(low, low, high * high), axis=1)
        gain = jax.lax.rsqrt(power * (1 / p.width) + EPSILON)[:, None]
        first, second = (x.astype(jnp.float32)[None, :] for x in scale)
        return low * gain * first, high * gain * second

    def rotated(halves: Halves) -> Halves:
        low, high = halves
        return fma(low, cos, -(high * sin)), fma(high, cos, low * sin)

    q, k = rotated(unit(q, q_scale)), rotated(unit(k, k_scale))
    for end, q_half, k_half, v_half in zip(ends, q, k, v, strict=True):
        store(q_ref.at[here, end], q_half.astype(q_ref.dtype), mask)
        store(k_ref.at[layer, slot, end], k_half.astype(k_ref.dtype), mask)
        store(v_ref.at[layer, slot, end], v_half.astype(v_ref.dtype), mask)
