"""The one clock of all rivals."""

import time
from collections.abc import Callable
from typing import Any

from experiments.call_timing import Calls, summary

WARM_UP = 20  # calls before those that count


def time_calls(
    call: Callable[[], Any], wait: Callable[[Any], Any], count: int
) -> Calls:
    """Milliseconds of calls that wait for their frame, and of such that do not.

    Args:
      call: begins a frame and returns it, perhaps before it is there.
      wait: returns once that frame is there, and all before it.
      count: calls of either kind.
    """
    for _ in range(WARM_UP):
        wait(call())
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        wait(call())
        times.append(1e3 * (time.perf_counter() - begin))
    begin = time.perf_counter()
    for _ in range(count):
        frame = call()
    wait(frame)
    together = 1e3 * (time.perf_counter() - begin) / count
    return summary(times, together)
