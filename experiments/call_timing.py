"""Times of calls from the host: such that wait for their result, and such that do not.

A call takes what the calls before it left (weights aside) and gives what the next one
takes, and a result. That is let go before the next call begins, as a live stream does
with a frame that was sent: its memory is there for the next source, and the addresses
that a program works with stay the same.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

WARM_UP = 10  # calls before those that count


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Call:
    """What is timed.

    Attributes:
      run: carry -> (carry, result).
      ready: called before the clock of a call that is waited for starts: brings what
        the call uses up to the device.
    """

    run: Callable[[Any], tuple[Any, Any]]
    ready: Callable[[], None] = _nothing


@dataclasses.dataclass(frozen=True)
class Calls:
    """Milliseconds of calls from the host.

    Attributes:
      p50, p95, p99, most: from the call until its result is there, nothing else on.
      back_to_back: a call, when none waits for the one before.
    """

    p50: float
    p95: float
    p99: float
    most: float
    back_to_back: float


def time_calls(call: Call, carry: Any, count: int) -> tuple[Calls, Any]:
    """Warms up, then `count` calls of either kind; also what the last one left."""
    times, carry = waited_calls(call, carry, count)
    together, carry = back_to_back(call, carry, count)
    return summary(times, together), carry


def summary(times: Sequence[float], together: float) -> Calls:
    """Of times of single calls and the mean of calls that wait for nothing."""
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return Calls(p50, p95, p99, max(times), together)


def waited_calls(call: Call, carry: Any, count: int) -> tuple[list[float], Any]:
    """Milliseconds of each of `count` calls, each waited for, after some that warm up.

    Also what the last one left.
    """
    for _ in range(WARM_UP):
        carry, result = call.run(carry)
        jax.block_until_ready(result)
    times = []
    for _ in range(count):
        result = None
        call.ready()
        begin = time.perf_counter()
        carry, result = call.run(carry)
        jax.block_until_ready(result)
        times.append(1e3 * (time.perf_counter() - begin))
    return times, carry


def back_to_back(call: Call, carry: Any, count: int) -> tuple[float, Any]:
    """Milliseconds a call of `count` that wait for nothing but the last; what it left.

    It begins with an idle device, and ends with one.
    """
    jax.block_until_ready(carry)
    result = None
    begin = time.perf_counter()
    for _ in range(count):
        result = None
        carry, result = call.run(carry)
    jax.block_until_ready((carry, result))
    return 1e3 * (time.perf_counter() - begin) / count, carry
