"""What the run took of memory, and what to say when there is none left."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from mirage_jax.errors import MirageError


def peak_memory() -> tuple[int, str]:
    """Highest memory use so far: (bytes, "device" or "process").

    The first device's own count where it keeps one (GPUs), else the resident set of
    this process (CPUs).
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"]), "device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "process"


def live_memory() -> int | None:
    """Bytes of the first device that are in use now; None where it does not count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats["bytes_in_use"]) if "bytes_in_use" in stats else None


@contextmanager
def exhaustion_explained(what: str) -> Iterator[None]:
    """Turns "out of memory" from XLA or Python into a MirageError of one line.

    Args:
      what: what was being done, with its size: "512x512 with model default".
    """
    try:
        yield
    except MemoryError as error:
        raise _no_memory("this machine", what) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _no_memory(jax.local_devices()[0].device_kind, what) from error


def _no_memory(where: str, what: str) -> MirageError:
    return MirageError(
        f"no memory left on {where} for {what}: take a smaller --config.size, end "
        "other programs that use the device, or set JAX_PLATFORMS=cpu"
    )
