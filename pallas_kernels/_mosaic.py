"""Pallas-Mosaic for Hopper: what differs between JAX releases, and how it is called.

Mosaic-GPU compiles for one architecture. The kernels here use that of Hopper (wgmma,
TMA copies, clusters that write into each other's shared memory), with the interface
that JAX has had since 0.11; on an older release `HAS_MOSAIC` is False and the kernels
say that they cannot run.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jax.experimental.pallas import mosaic_gpu

plgpu: Any = mosaic_gpu  # its names differ from release to release

HAS_MOSAIC = hasattr(plgpu, "mma")  # came with 0.11
HOPPER = (9, 0)
# What a block of threads may take of a Hopper multiprocessor's 228 KiB.
SHARED_MEMORY = 227 * 1024


def load(ref: Any, layout: Any) -> Any:
    """Reads memory of either kind into registers, laid out as asked for."""
    return plgpu.load(ref, layout=layout, optimized=False)


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
        interpret=plgpu.InterpretGPUParams() if interpret else None,
    )
