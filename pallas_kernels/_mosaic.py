"""Pallas-Mosaic for Hopper: what differs between JAX releases, and how it is called.

Mosaic-GPU compiles for one architecture. The kernels here use that of Hopper (wgmma,
TMA copies, clusters that write into each other's shared memory), with the interface
that JAX has had since 0.11; on an older release `HAS_MOSAIC` is False and the kernels
say that they cannot run.
"""

from typing import Any

from jax.experimental.pallas import mosaic_gpu as plgpu

HAS_MOSAIC = hasattr(plgpu, "mma")  # came with 0.11
HOPPER = (9, 0)
# What a block of threads may take of a Hopper multiprocessor's 228 KiB.
SHARED_MEMORY = 227 * 1024


def swizzled(row_bytes: int, itemsize: int) -> tuple[Any, ...]:
    """Transforms of a tile in shared memory, as wgmma and TMA want them.

    Args:
      row_bytes: bytes of the tile's minor axis; a multiple of 32.
      itemsize: bytes of an element.
    """
    swizzle = next(size for size in (128, 64, 32) if row_bytes % size == 0)
    tiling = plgpu.TilingTransform((8, swizzle // itemsize))
    return tiling, plgpu.SwizzleTransform(swizzle)
