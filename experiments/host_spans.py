"""What host and GPU did in calls of a program, from the events of a profile of them."""

import bisect
import collections
import dataclasses
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.trace_events import gpu_events
from mirage_jax.errors import MirageError
from mirage_jax.results import Result

CALL, WAIT = "timed call", "timed wait"  # how the profiled loop names its two parts
CALLER, OTHERS = "caller", "others"  # threads: that which calls, and all the rest
_NUMBER = re.compile(r"([._]\d+)+$")  # of one of many operations of a kind
_METADATA = re.compile(r"#.*")


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What the GPU did in a call; microseconds from the beginning of the call.

    Attributes:
      first: when the first kernel began, median over the calls.
      last: when the last one ended, median.
      busy: how long at least one ran, median.
      count: kernels and copies of a call, mean.
    """

    first: float
    last: float
    busy: float
    count: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """What the profiler saw of some calls, each of which was waited for.

    Attributes:
      calls: how many.
      returns: microseconds until the call returned to Python, of each.
      waited: until its result was there, of each.
      spans: (thread, name) to microseconds and count of a call, means, longest first.
        A span contains those that began and ended inside it; one inside another of
        its own name is not counted.
      kernels: None where the profiler saw no GPU.
    """

    calls: int
    returns: Sequence[float]
    waited: Sequence[float]
    spans: Mapping[tuple[str, str], tuple[float, float]]
    kernels: Kernels | None


def timeline_of(profile: Any) -> Timeline:
    """Sorts the events into the calls in which they began.

    Args:
      profile: `jax.profiler.ProfileData` of a loop whose every call is an annotation
        `CALL`, and the wait for its result one `WAIT`, all on one thread.

    Raises:
      MirageError: it has no such call.
    """
    host = [plane for plane in profile.planes if plane.name.startswith("/host:")]
    lines = [line for plane in host for line in plane.lines]
    caller = next((ln for ln in lines if any(e.name == CALL for e in ln.events)), None)
    if caller is None:
        raise MirageError("the profiler saw no call on the host")
    own = sorted(caller.events, key=lambda event: event.start_ns)
    calls = [event for event in own if event.name == CALL]
    waits = [event for event in own if event.name == WAIT]
    begins = [event.start_ns for event in calls]
    ends = [_end(event) for event in waits]

    time: dict[tuple[str, str], float] = collections.defaultdict(float)
    count: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in lines:
        thread = CALLER if line is caller else OTHERS
        until: dict[str, float] = collections.defaultdict(float)
        for event in sorted(line.events, key=lambda event: event.start_ns):
            name = _kind(event.name)
            if event.name in (CALL, WAIT) or _call(event, begins, ends) is None:
                continue
            if event.start_ns < until[name]:  # inside one of its own name
                continue
            until[name] = _end(event)
            time[thread, name] += event.duration_ns / 1e3
            count[thread, name] += 1
    number = len(calls)
    longest = sorted(time, key=lambda key: -time[key])
    return Timeline(
        calls=number,
        returns=[event.duration_ns / 1e3 for event in calls],
        waited=[(e - b) / 1e3 for b, e in zip(begins, ends, strict=True)],
        spans={key: (time[key] / number, count[key] / number) for key in longest},
        kernels=_kernels(gpu_events(profile), begins, ends),
    )


def _kernels(
    events: Iterable[Any], begins: Sequence[float], ends: Sequence[float]
) -> Kernels | None:
    of_call: dict[int, list[Any]] = collections.defaultdict(list)
    for event in events:
        if (call := _call(event, begins, ends)) is not None:
            of_call[call].append(event)
    if not of_call:
        return None
    first, last, busy = [], [], []
    for call, found in of_call.items():
        found.sort(key=lambda event: event.start_ns)
        first.append((found[0].start_ns - begins[call]) / 1e3)
        last.append((max(map(_end, found)) - begins[call]) / 1e3)
        busy.append(_covered(found) / 1e3)
    count = sum(map(len, of_call.values())) / len(of_call)
    median = statistics.median
    return Kernels(median(first), median(last), median(busy), count)


def _covered(events: Sequence[Any]) -> float:
    """Nanoseconds in which at least one of them runs; they begin one after another."""
    covered, until = 0.0, events[0].start_ns
    for event in events:
        covered += max(0.0, _end(event) - max(until, event.start_ns))
        until = max(until, _end(event))
    return covered


def _call(event: Any, begins: Sequence[float], ends: Sequence[float]) -> int | None:
    """The call in which an event began."""
    call = bisect.bisect_right(begins, event.start_ns) - 1
    return call if call >= 0 and event.start_ns < ends[call] else None


def _end(event: Any) -> float:
    return event.start_ns + event.duration_ns


def _kind(name: str) -> str:
    """Without number and metadata; fit for the last part of a result's name."""
    plain = _NUMBER.sub("", _METADATA.sub("", name)).strip("/ ")
    return plain or "nameless"


def to_results(found: Timeline, least: float) -> list[Result]:
    """`call_us/traced/...`, `kernel_us/...`, `span_us/<thread>/<name>` and `spans/...`.

    Args:
      found: what was seen.
      least: spans with fewer microseconds a call are left out.
    """
    results = call_results("traced", found.returns, found.waited)
    if (k := found.kernels) is not None:
        for name, value in (("first", k.first), ("last", k.last), ("busy", k.busy)):
            results.append(Result(f"kernel_us/{name}", round(value, 3), "us", "lower"))
        results.append(Result("kernels", round(k.count, 2), "", "lower"))
    for (thread, name), (us, count) in found.spans.items():
        if us >= least:
            path = f"{thread}/{name}"
            results.append(Result(f"span_us/{path}", round(us, 3), "us", "lower"))
            results.append(Result(f"spans/{path}", round(count, 2), "", "lower"))
    return results


def call_results(
    mode: str, returns: Sequence[float], waited: Sequence[float]
) -> list[Result]:
    """`call_us/<mode>/returns` and `call_us/<mode>/waited`, medians."""
    return [
        Result(f"call_us/{mode}/{name}", round(statistics.median(us), 3), "us", "lower")
        for name, us in (("returns", returns), ("waited", waited))
    ]


def table(found: Timeline, shown: int) -> str:
    """The GPU's part in a line, and the longest spans."""
    k = found.kernels
    lines = ["GPU: the profiler saw none"]
    if k is not None:
        lines = [
            f"GPU: {k.count:.0f} kernels from {k.first:.1f} to {k.last:.1f} us, "
            f"busy for {k.busy:.1f} us"
        ]
    for (thread, name), (us, count) in list(found.spans.items())[:shown]:
        lines.append(f"  {us:9.1f} us  {count:7.1f} x  {thread:6}  {name[:60]}")
    return "\n".join(lines)
