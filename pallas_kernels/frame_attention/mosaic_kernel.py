"""The Hopper kernel of frame attention, by Pallas-Mosaic.

  cluster (h, i, b): block i of the queries of stream b and head h; its `split` blocks
                     of threads, the shares, take a contiguous part of the keys each

A share has two warpgroups that compute, 64 queries each, and one that copies:

- K and V come by TMA from where they lie, [L * B * M, K * E], through a ring of
  `num_stages` tiles in swizzled shared memory; a barrier a tile says "arrived", another
  "consumed". Scores and output are wgmma products with float32 accumulators.
- While one warpgroup takes exponentials the other has the tensor cores: they pass them
  on by a barrier (the ping-pong of FlashAttention-3, Shah et al. 2024).
- An empty slot's tiles are neither copied nor counted: both sides skip it.
- The prompt takes a tile of 64 rows, which reaches into the slot behind it: the weights
  of those rows are 0, so what lies there must be finite.
- The shares meet without a trip through device memory or a second kernel: each leaves
  its normalised output and the base-2 logarithm of its sums in its shared memory, and
  reads from all of them the columns that it owns, to weigh, add and store them. Reads
  are wide; writing into the memory of others is slower, for it has to be signalled
  number by number.

Maximum, sums and accumulators are float32. What the shares exchange is rounded to the
dtype of the output.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from pallas_kernels._mosaic import (
    load_from_block,
    meet,
    plgpu,
    swizzled,
    wide_layout,
)
from pallas_kernels.frame_attention.kernel import LOG2_E
from pallas_kernels.frame_attention.mosaic_config import ROWS, MosaicConfig
from pallas_kernels.frame_attention.problem import Problem

NOTHING = -1e30  # logarithm of the sum of a share whose slots are all empty
Carry = tuple[Array, Array, Array]  # accumulator [R, E], maximum [R], sum [R]


def attend(
    layer_ref: Any,
    bias_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    out_ref: Any,
    tiles: dict[str, Any],
    barriers: dict[str, Any],
    *,
    problem: Problem,
    config: MosaicConfig,
) -> None:
    """One share.

    Refs in device memory: layer [1]; bias [L, B, G, K, S]; q and out
    [B * G * queries, K * E]; k and v [L * B * M, K * E].
    """
    p, c = problem, config
    head = jax.lax.axis_index("head")
    stream = jax.lax.axis_index("stream")
    block = jax.lax.axis_index("block")
    share = jax.lax.axis_index("share")
    warpgroup = jax.lax.axis_index("warpgroup")
    blocks = p.queries // (c.warpgroups * ROWS)
    group = jax.lax.div(block, jnp.int32(blocks))
    columns = pl.ds(head * p.width, p.width)
    first = stream * p.groups * p.queries + (block * c.warpgroups + warpgroup) * ROWS

    # Before anything that has to wait for memory.
    @pl.when(warpgroup < c.warpgroups)
    def _fetch_queries() -> None:
        plgpu.copy_gmem_to_smem(
            q_ref.at[pl.ds(first, ROWS), columns],
            tiles["q"].at[warpgroup],
            barriers["q_arrived"].at[warpgroup],
        )

    layer = layer_ref[0]
    first_key = (layer * p.batch + stream) * p.total_keys

    total = p.frames * (p.keys // c.block_k)  # tiles of all frame slots
    begin = jax.lax.div(share * total, jnp.int32(c.split))
    end = jax.lax.div((share + 1) * total, jnp.int32(c.split))

    per_slot = jnp.int32(p.keys // c.block_k)
    slots = jax.lax.div(begin, per_slot), jax.lax.div(end + per_slot - 1, per_slot)
    # All at once and first of all: one after the other each would wait for memory.
    prompt_bias = bias_ref[layer, stream, group, head, 0]
    biases = [
        bias_ref[
            layer, stream, group, head, jnp.minimum(slots[0] + i, p.frames - 1) + 1
        ]
        for i in range(_most_slots(p, c))
    ]

    def for_tiles(visit: Any, carry: Any) -> Any:
        """visit(first row, rows, of which keys, bias, step, carry) for each tile."""

        def visit_slot(slot: Any, step_carry: Any) -> Any:
            bias = biases[0]
            for i, other in enumerate(biases[1:], start=1):
                bias = jnp.where(slot == slots[0] + i, other, bias)
            low = jnp.maximum(begin, slot * per_slot)
            high = jnp.minimum(end, (slot + 1) * per_slot)
            high = jnp.where(bias > -jnp.inf, high, low)

            def visit_tile(tile: Any, step_carry: Any) -> Any:
                step, carry = step_carry
                row = first_key + p.prompt + tile * c.block_k
                return step + 1, visit(row, c.block_k, c.block_k, bias, step, carry)

            return jax.lax.fori_loop(low, high, visit_tile, step_carry)

        step_carry = (jnp.int32(0), carry)
        if p.prompt:
            # The first share has no more tiles than the others: the prompt is its own.
            def visit_prompt(_: Any, step_carry: Any) -> Any:
                step, carry = step_carry
                visited = visit(first_key, ROWS, p.prompt, prompt_bias, step, carry)
                return step + 1, visited

            mine = (share == 0) & (prompt_bias > -jnp.inf)
            count = mine.astype(jnp.int32)
            step_carry = jax.lax.fori_loop(0, count, visit_prompt, step_carry)
        return jax.lax.fori_loop(*slots, visit_slot, step_carry)[1]

    stages = jnp.int32(c.num_stages)

    @pl.when(warpgroup == c.warpgroups)
    def _copy() -> None:
        if c.warpgroups > 1:  # else there are registers for all
            plgpu.set_max_registers(40, action="decrease")

        def copy(
            row: Any, rows: int, keys: int, bias: Any, step: Any, carry: Any
        ) -> Any:
            del keys, bias
            stage = jax.lax.rem(step, stages)
            here = (pl.ds(row, rows), columns)
            for name, ref in (("k", k_ref), ("v", v_ref)):

                @pl.when(step >= stages)
                def _wait(name: str = name) -> None:
                    plgpu.barrier_wait(barriers[f"{name}_consumed"].at[stage])

                plgpu.copy_gmem_to_smem(
                    ref.at[here],
                    tiles[name].at[stage, pl.ds(0, rows)],
                    barriers[f"{name}_arrived"].at[stage],
                )
            return carry

        for_tiles(copy, jnp.int32(0))

    @pl.when(warpgroup < c.warpgroups)
    def _compute() -> None:
        if c.warpgroups > 1:
            plgpu.set_max_registers(232, action="increase")
        q_tile = tiles["q"].at[warpgroup]
        plgpu.barrier_wait(barriers["q_arrived"].at[warpgroup])

        def pass_on() -> None:
            if c.warpgroups > 1:
                plgpu.barrier_arrive(barriers["turn"])
                plgpu.barrier_wait(barriers["turn"])

        def attend_tile(
            row: Any, rows: int, keys: int, bias: Any, step: Any, carry: Carry
        ) -> Carry:
            del row
            stage = jax.lax.rem(step, stages)
            return _attend_tile(
                (rows, keys), bias, stage, carry, q_tile, tiles, barriers, pass_on, p
            )

        row_layout = plgpu.Layout.WGMMA.reduce(1)
        carry = (
            plgpu.layout_cast(
                jnp.zeros((ROWS, p.width), jnp.float32), plgpu.Layout.WGMMA
            ),
            plgpu.layout_cast(jnp.full((ROWS,), -jnp.inf, jnp.float32), row_layout),
            plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), row_layout),
        )
        if c.warpgroups > 1:
            pl.when(warpgroup == 1)(pass_on)
        acc, top, total = for_tiles(attend_tile, carry)
        if c.warpgroups > 1:
            pl.when(warpgroup == 0)(pass_on)

        some = total > 0
        acc = acc * _spread(jnp.where(some, 1.0 / total, 0.0), p.width)
        if c.split == 1:
            q_tile[...] = acc.astype(q_tile.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q_tile, out_ref.at[pl.ds(first, ROWS), columns])
        else:
            log_sum = jnp.where(some, top + jnp.log(total) * LOG2_E, NOTHING)
            _publish(acc, log_sum, warpgroup, tiles, c.pieces)
            meet(barriers["published"].at[warpgroup])
            _gather(first, head * p.width, share, warpgroup, tiles, out_ref, c, p)
            # Shared memory lasts as long as its block.
            meet(barriers["gathered"].at[warpgroup])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _most_slots(problem: Problem, config: MosaicConfig) -> int:
    """Frame slots that the tiles of one share may belong to."""
    per_slot = problem.keys // config.block_k
    tiles = -(-problem.frames * per_slot // config.split)
    return min(problem.frames, (tiles + per_slot - 2) // per_slot + 1)


def _spread(x: Array, width: int) -> Array:
    """[R] to [R, width]."""
    return jax.lax.broadcast_in_dim(x, (x.shape[0], width), [0])


def _attend_tile(
    sizes: tuple[int, int],
    bias: Any,
    stage: Any,
    carry: Carry,
    q_tile: Any,
    tiles: dict[str, Any],
    barriers: dict[str, Any],
    pass_on: Any,
    problem: Problem,
) -> Carry:
    """Scores, softmax and output of a warpgroup's queries and one tile of keys.

    `sizes` are the tile's rows and how many of them, from the first on, are keys.
    """
    acc, top, total = carry
    rows, keys = sizes
    scale, bias = problem.width**-0.5 * LOG2_E, bias * LOG2_E
    k_tile = tiles["k"].at[stage, pl.ds(0, rows)]
    v_tile = tiles["v"].at[stage, pl.ds(0, rows)]
    plgpu.barrier_wait(barriers["k_arrived"].at[stage])

    def dots(dots_ref: Any) -> Array:
        plgpu.wgmma(dots_ref, q_tile, k_tile.transpose((1, 0)))
        pass_on()
        return dots_ref[...]

    scores = pl.run_scoped(dots, plgpu.ACC((ROWS, rows), jnp.float32))
    plgpu.barrier_arrive(barriers["k_consumed"].at[stage])
    if keys < rows:
        column = plgpu.broadcasted_iota(
            jnp.int32, (ROWS, rows), 1, layout=plgpu.Layout.WGMMA
        )
        scores = jnp.where(column < keys, scores, -jnp.inf)
    new_top = jnp.maximum(top, scores.max(axis=1) * scale + bias)
    weights = jnp.exp2(scores * scale - _spread(new_top - bias, rows))
    decay = jnp.exp2(top - new_top)
    acc = acc * _spread(decay, problem.width)
    total = total * decay + weights.sum(axis=1)
    halves = weights.astype(v_tile.dtype)
    acc, total, new_top, halves = jax.lax.optimization_barrier(
        (acc, total, new_top, halves)
    )
    plgpu.barrier_wait(barriers["v_arrived"].at[stage])
    pass_on()

    def weighted(acc_ref: Any) -> None:
        plgpu.wgmma(acc_ref, halves, v_tile)

    acc = pl.run_state(weighted)(plgpu.ACC.init(acc))
    plgpu.barrier_arrive(barriers["v_consumed"].at[stage])
    return acc, new_top, total


def _publish(
    acc: Array, log_sum: Array, warpgroup: Any, tiles: dict[str, Any], pieces: int
) -> None:
    """Writes a warpgroup's output, cut into columns, and its sums to be read by all."""
    width = acc.shape[1] // pieces
    tiles["sums"][warpgroup] = log_sum
    out = acc.astype(tiles["pieces"].dtype)
    for piece in range(pieces):
        columns = slice(piece * width, (piece + 1) * width)
        tiles["pieces"][piece, warpgroup] = out[:, columns]


def _gather(
    first: Any,
    column: Any,
    share: Any,
    warpgroup: Any,
    tiles: dict[str, Any],
    out_ref: Any,
    config: MosaicConfig,
    problem: Problem,
) -> None:
    """Weighs the columns that this share owns, of all shares, and stores them."""
    width = problem.width // config.pieces
    shares, wide = range(config.split), wide_layout(width)
    sums_ref, row_layout = tiles["sums"].at[warpgroup], wide.reduce(1)
    sums = [load_from_block(sums_ref, j, (), row_layout) for j in shares]
    top = functools.reduce(jnp.maximum, sums)
    weights = [jnp.exp2(log_sum - top) for log_sum in sums]
    gain = 1.0 / functools.reduce(jnp.add, weights)
    for turn in range(config.turns):
        piece = turn * config.split + share

        @pl.when(piece < config.pieces)
        def _store(turn: int = turn, piece: Any = piece) -> None:
            here = tiles["pieces"].at[piece, warpgroup]
            transforms = swizzled(width * problem.itemsize, problem.itemsize)
            parts = [load_from_block(here, j, transforms, wide) for j in shares]
            weighed = [
                part.astype(jnp.float32) * _spread(weight * gain, width)
                for part, weight in zip(parts, weights, strict=True)
            ]
            tile = tiles["out"].at[turn, warpgroup]
            tile[...] = functools.reduce(jnp.add, weighed).astype(tile.dtype)
            plgpu.commit_smem()
            rows, columns = pl.ds(first, ROWS), pl.ds(column + piece * width, width)
            plgpu.copy_smem_to_gmem(tile, out_ref.at[rows, columns])
