"""The Hopper kernel of the dense layers, 16 and 8 bits, by Pallas-Mosaic.

    block (i, j, r, c, s): rows i * R + r, outputs j * C + c, part s of the inputs

A block is one producer warpgroup and one or two that compute, and owns the sum of one
part of the inputs over one tile of the result. The producer streams tiles of x and of
the weight by TMA through a ring of slots in shared memory; the others feed the matrix
units from there. Blocks of a cluster help each other twice:

- R blocks that need the same tile of the weight and C that need the same tile of x each
  fetch a share of it and send it to all (multicast), because at a few hundred rows the
  way from the L2 cache is the narrowest. A slot is free when all of them have read it.
- The `split` blocks of one tile leave their sums in shared memory, in the ring's place,
  and block s reads the columns of its 1/split of the tile from all of them. It adds
  them in their order, so the result does not depend on who came first.

Scales, bias, activation, gate and residual follow in float32 on what a block owns, and
the result goes to memory once, by TMA.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels._mosaic import (
    load,
    load_from_block,
    meet,
    plgpu,
    swizzled,
    wide_layout,
)
from pallas_kernels.linear.config import Config
from pallas_kernels.linear.epilogue import gelu
from pallas_kernels.linear.problem import Problem

DOWN, ACROSS, PART = "down", "across", "part"  # axes of a cluster
# Of the producer, which only issues copies, and of a warpgroup that computes: together
# at most 65536 a block.
_PRODUCER_REGISTERS = 40
_COMPUTE_REGISTERS = {1: 240, 2: 232}


def scratch(problem: Problem, config: Config) -> dict[str, Any]:
    """What a block keeps in shared memory."""
    p, c = problem, config
    size = p.itemsize
    x = plgpu.SMEM(
        (c.stages, c.tile_m, c.tile_k),
        jnp.dtype(p.format),
        transforms=swizzled(c.tile_k * size, size),
    )
    weight_tile = (c.tile_n, c.tile_k) if p.eight_bit else (c.tile_k, c.tile_n)
    weight = plgpu.SMEM(
        (c.stages, *weight_tile),
        jnp.dtype(p.format),
        transforms=swizzled(weight_tile[1] * size, size),
    )
    own, item = c.own, jnp.dtype(p.dtype).itemsize
    out = plgpu.SMEM(
        (c.tile_m, own),
        jnp.dtype(p.dtype),
        transforms=swizzled(own * item, item) if own * item % 32 == 0 else (),
    )
    sums = plgpu.SMEM(
        (c.split, c.tile_m, own), p.accumulator, transforms=swizzled(own * 4, 4)
    )
    meeting = plgpu.ClusterBarrier(
        collective_axes=(PART,), num_arrivals=1, num_barriers=c.warpgroups
    )
    late = [out] if c.split == 1 else [out, sums]
    return {
        "memory": plgpu.RefUnion([x, weight], late),
        "full": plgpu.Barrier(num_arrivals=2, num_barriers=c.stages),
        "free": plgpu.ClusterBarrier(
            collective_axes=(DOWN, ACROSS),
            num_arrivals=c.warpgroups,
            num_barriers=c.stages,
        ),
        "read": plgpu.Barrier(num_arrivals=c.warpgroups),
        "published": meeting,
        "gathered": meeting,
    }


def linear(
    *refs: Any,
    problem: Problem,
    config: Config,
    memory: Any,
    full: Any,
    free: Any,
    read: Any,
    published: Any,
    gathered: Any,
) -> None:
    """One block.

    Refs: x [R, K]; weight [K, D], in 8 bits [D, K]; in 8 bits the scales of x [R] and
    of the weight [D]; where there are such: bias [D], residual [R, D], gate
    [frames, D]; the result [R, D].
    """
    p, c = problem, config
    thread = jax.lax.axis_index("warpgroup")
    row = jax.lax.axis_index("rows") * c.share_rows + jax.lax.axis_index(DOWN)
    column = jax.lax.axis_index("outputs") * c.share_outputs
    column = column + jax.lax.axis_index(ACROSS)
    part = jax.lax.axis_index(PART)
    steps = p.inputs // (c.split * c.tile_k)
    (x_smem, weight_smem), late = memory
    x_ref, weight_ref, *late_refs, out_ref = refs

    @pl.when(thread == c.warpgroups)
    def _produce() -> None:
        plgpu.set_max_registers(_PRODUCER_REGISTERS, action="decrease")
        rows = pl.ds(row * c.tile_m, c.tile_m)
        outputs = pl.ds(column * c.tile_n, c.tile_n)

        @pl.loop(0, steps)
        def _step(step: jax.Array) -> None:
            slot = jax.lax.rem(step, jnp.int32(c.stages))

            @pl.when(step >= c.stages)
            def _() -> None:
                plgpu.barrier_wait(free.at[slot])

            inputs = pl.ds((part * steps + step) * c.tile_k, c.tile_k)
            weight_tile = (outputs, inputs) if p.eight_bit else (inputs, outputs)
            plgpu.copy_gmem_to_smem(
                weight_ref.at[weight_tile],
                weight_smem.at[slot],
                full.at[slot],
                collective_axes=DOWN if c.share_rows > 1 else None,
            )
            plgpu.copy_gmem_to_smem(
                x_ref.at[rows, inputs],
                x_smem.at[slot],
                full.at[slot],
                collective_axes=ACROSS if c.share_outputs > 1 else None,
            )

    @pl.when(thread < c.warpgroups)
    def _compute() -> None:
        plgpu.set_max_registers(_COMPUTE_REGISTERS[c.warpgroups], action="increase")
        mine = pl.ds(thread * c.height, c.height)
        first = row * c.tile_m + thread * c.height
        rows = pl.ds(first, c.height)
        columns = pl.ds(column * c.tile_n + part * c.own, c.own)
        # Now, while the ring fills, and not after the loop, where all would wait.
        layout = wide_layout(c.own) if c.split > 1 else plgpu.Layout.WGMMA
        rest = _fetch(late_refs, rows, columns, first // p.tokens, layout, p)

        def release(step: jax.Array) -> None:
            # The last slots are waited for by nobody, who may be gone already.
            @pl.when((step >= 0) & (step + c.stages < steps))
            def _() -> None:
                plgpu.barrier_arrive(free.at[jax.lax.rem(step, jnp.int32(c.stages))])

        def multiply(total: Any) -> jax.Array:
            @pl.loop(0, steps)
            def _step(step: jax.Array) -> None:
                slot = jax.lax.rem(step, jnp.int32(c.stages))
                plgpu.barrier_wait(full.at[slot])
                weight = weight_smem.at[slot]
                if p.eight_bit:
                    weight = weight.transpose((1, 0))
                plgpu.wgmma(total, x_smem.at[slot, mine], weight)
                plgpu.wgmma_wait(1)
                release(step - 1)

            return total[...]

        total = pl.run_scoped(multiply, plgpu.ACC((c.height, c.tile_n), p.accumulator))
        plgpu.barrier_arrive(read)
        plgpu.barrier_wait(read)
        if c.split > 1:
            out_smem, sums = late
            for other in range(c.split):
                share = total[:, other * c.own : (other + 1) * c.own]
                sums[other, mine] = share
            meet(published.at[thread])
            transforms = swizzled(4 * c.own, 4)
            shares = [
                load_from_block(sums.at[part, mine], s, transforms, layout)
                for s in range(c.split)
            ]
            total = functools.reduce(jnp.add, shares)
        else:
            (out_smem,) = late
        out_smem[mine] = _finish(total, rest, p).astype(out_smem.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_smem.at[mine], out_ref.at[rows, columns])
        if c.split > 1:
            # Shared memory lasts as long as its block.
            meet(gathered.at[thread])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _fetch(
    refs: list[Any], rows: Any, columns: Any, frame: Any, layout: Any, p: Problem
) -> Any:
    """The epilogue's operands for some rows and columns, in the refs' order."""
    down, across = layout.reduce(1), layout.reduce(0)
    rest, found = list(refs), []
    if p.eight_bit:
        found.append(load(rest.pop(0).at[rows], down))
        found.append(load(rest.pop(0).at[columns], across))
    if p.biased:
        found.append(load(rest.pop(0).at[columns], across))
    if p.residual:
        found.append(load(rest.pop(0).at[rows, columns], layout))
    if p.gated:
        found.append(load(rest.pop(0).at[frame, columns], across))
    return found


def _finish(total: jax.Array, operands: list[jax.Array], p: Problem) -> jax.Array:
    """The epilogue, float32, with what `_fetch` gave."""
    rest = [x.astype(jnp.float32) for x in operands]
    y = total.astype(jnp.float32)

    def spread(x: jax.Array, axis: int) -> jax.Array:
        return jax.lax.broadcast_in_dim(x, y.shape, (axis,))

    if p.eight_bit:
        y = y * spread(rest.pop(0), 0)
        y = y * spread(rest.pop(0), 1)
    if p.biased:
        y = y + spread(rest.pop(0), 1)
    if p.activation == "gelu":
        y = gelu(y)
    residual = rest.pop(0) if p.residual else None
    if p.gated:
        y = y * spread(rest.pop(0), 1)
    return y if residual is None else y + residual
