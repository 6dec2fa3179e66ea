"""Pallas-Mosaic for Hopper: what differs between JAX releases, and how it is called.

Mosaic-GPU compiles for one architecture. The kernels here use that of Hopper (wgmma,
TMA copies, clusters that write into each other's shared memory), with the interface
that JAX has had since 0.11; on an older release `HAS_MOSAIC` is False and the kernels
say that they cannot run.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.experimental.mosaic import gpu as mosaic_gpu_core
from jax.experimental.pallas import mosaic_gpu

mosaic: Any = mosaic_gpu_core
plgpu: Any = mosaic_gpu  # its names differ from release to release

HAS_MOSAIC = hasattr(plgpu, "mma")  # came with 0.11
HOPPER = (9, 0)
# What a block of threads may take of a Hopper multiprocessor's 228 KiB.
SHARED_MEMORY = 227 * 1024


def load(ref: Any, layout: Any) -> Any:
    """Reads memory of either kind into registers, laid out as asked for."""
    return plgpu.load(ref, layout=layout, optimized=False)


def load_from_block(
    ref: Any, block: int, transforms: tuple[Any, ...], layout: Any
) -> Any:
    """Reads shared memory of another block of the cluster into registers.

    Args:
      ref: where the data lie in this block's memory: they lie alike in all blocks.
      block: its number on the last axis of the cluster.
      transforms: of the memory, as it was asked for.
      layout: of the result.
    """
    shape, dtype = tuple(ref.shape), ref.dtype

    @plgpu.inline_mgpu(
        arg_types=(plgpu.RefType(transforms),),
        return_type=plgpu.ShapeDtypeStruct(shape, dtype, layout=layout),
    )
    def read(context: Any, ref: Any) -> Any:  # no CPU: called by Hopper's compiler
        del context
        index = mosaic.utils.c(block, mosaic.utils.ir.IndexType.get())
        # JAX's own `cluster_ref` does not take slices yet.
        there = mosaic.utils.get_cluster_ref(
            ref, mosaic.utils.gpu.Dimension.x, index, generic=False
        )
        options = {
            "layout": layout.to_mgpu(),
            "optimized": False,
            "is_signed": True if jnp.issubdtype(dtype, jnp.integer) else None,
        }
        if not transforms:
            return mosaic.FragmentedArray.load_untiled(there, **options)
        swizzle = transforms[-1].swizzle
        return mosaic.FragmentedArray.load_tiled(there, swizzle, **options)

    return read(ref)


def meet(barrier: Any) -> None:
    """Waits until this warpgroup is here in all blocks of the cluster.

    What each has written to its shared memory, all can read then.
    """
    plgpu.barrier_arrive(barrier)
    plgpu.barrier_wait(barrier)


def wide_layout(width: int) -> Any:
    """A layout of 64 rows in which threads hold four neighbours: few, wide reads.

    Of `width` columns, a multiple of 8. Rows lie among the threads as they do in
    `plgpu.Layout.WGMMA`, which holds two neighbours and stands in where 16 columns do
    not fit.
    """
    return plgpu.Layout.WGMMA if width % 16 else plgpu.Layout.WGMMA_UPCAST_2X


def swizzled(row_bytes: int, itemsize: int) -> tuple[Any, ...]:
    """Transforms of a tile in shared memory, as wgmma and TMA want them.

    Args:
      row_bytes: bytes of the tile's minor axis; a multiple of 32.
      itemsize: bytes of an element.
    """
    swizzle = next(size for size in (128, 64, 32) if row_bytes % size == 0)
    tiling = plgpu.TilingTransform((8, swizzle // itemsize))
    return tiling, plgpu.SwizzleTransform(swizzle)


def hopper_call(
    kernel: Callable[..., None],
    *,
    name: str,
    grid: Mapping[str, int],
    cluster: Mapping[str, int],
    warpgroups: int,
    scratch: Any,
    out: Any,
    interpret: bool,
) -> Callable[..., Any]:
    """A kernel for Hopper cards.

    Args:
      kernel: takes references to operands, to the result, and the scratch by name.
      name: under which a profiler shows it.
      grid: axes and their sizes, of clusters.
      cluster: axes and their sizes, of blocks.
      warpgroups: of a block, on the axis "warpgroup".
      scratch: what a block keeps in shared memory, by name.
      out: shape and dtype of the result.
      interpret: simulate it on any device.
    """
    return plgpu.kernel(
        kernel,
        out_type=out,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        cluster=tuple(cluster.values()),
        cluster_names=tuple(cluster),
        num_threads=warpgroups,
        thread_name="warpgroup",
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
    )
