"""Compiles programs side by side: XLA leaves Python to others while it works."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Off a GPU nothing is timed in earnest: this compiles in a third of the time.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
MOST = 8  # at once: every one needs memory of the host's and tries kernels on the GPU

Compiled = tuple[Any, float]  # the program, and the seconds that XLA took


def compile_side_by_side(
    lowered: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    note: Callable[[str, float], None],
) -> dict[str, Compiled | Exception]:
    """What each program became; one that does not compile leaves the others alone.

    Args:
      lowered: programs by name, `jax.stages.Lowered`.
      options: for the compiler.
      note: called with name and seconds whenever one is done.
    """

    def one(name: str) -> Compiled | Exception:
        begin = time.perf_counter()
        try:
            program = lowered[name].compile(
                compiler_options=None if options is None else dict(options)
            )
        except Exception as failure:  # any library may fail in any way
            return failure
        seconds = time.perf_counter() - begin
        note(name, seconds)
        return program, seconds

    # The first one alone: what XLA tries out on a GPU for it, it need not try again.
    first, rest = list(lowered)[:1], list(lowered)[1:]
    found = {name: one(name) for name in first}
    with ThreadPoolExecutor(min(MOST, os.cpu_count() or 1)) as pool:
        return found | dict(zip(rest, pool.map(one, rest), strict=True))
