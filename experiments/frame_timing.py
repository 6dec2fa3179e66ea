"""Times of frames: with transfers between host and device, and of single stages."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.call_timing import WARM_UP, Call, back_to_back

Step = Callable[[Any, Any], tuple[Any, Any]]  # (state, source) -> (state, styled)


@dataclasses.dataclass(frozen=True)
class Transfers:
    """Frames that come from the host and go back to it.

    Attributes:
      latencies: milliseconds from the beginning of a frame's upload until its styled
        frame is on the host, of each frame.
      fps: frames a second of the whole run.
    """

    latencies: tuple[float, ...]
    fps: float


def plain_transfers(
    step: Step, state: Any, frames: Iterator[np.ndarray], count: int
) -> tuple[Transfers, Any]:
    """Upload, step, download, one after another; also what the last frame left."""
    for _ in range(WARM_UP):
        state, styled = step(state, jax.device_put(next(frames)))
        np.asarray(styled)
        del styled
    latencies = []
    start = time.perf_counter()
    for _ in range(count):
        begin = time.perf_counter()
        state, styled = step(state, jax.device_put(next(frames)))
        np.asarray(styled)
        del styled  # its memory is that of the next source, as in a live stream
        latencies.append(1e3 * (time.perf_counter() - begin))
    seconds = time.perf_counter() - start
    return Transfers(tuple(latencies), count / seconds), state


def double_buffered(
    step: Step, state: Any, frames: Iterator[np.ndarray], count: int
) -> tuple[Transfers, Any]:
    """Upload of the next frame and download of the one before, while one is computed.

    A frame is later on the host than by `plain_transfers`, for it waits for its turn,
    and more of them come a second.
    """
    begins: list[float] = []
    latencies: list[float] = []

    def upload() -> Any:
        begins.append(time.perf_counter())
        return jax.device_put(next(frames))

    def finish(styled: Any) -> None:
        np.asarray(styled)
        begin = begins[len(latencies)]
        latencies.append(1e3 * (time.perf_counter() - begin))

    source, before = upload(), None
    start = 0.0
    for index in range(WARM_UP + count):
        if index == WARM_UP:
            start = time.perf_counter()
        state, styled = step(state, source)
        styled.copy_to_host_async()
        source = upload()
        if before is not None:
            finish(before)
        before = styled
    finish(before)
    seconds = time.perf_counter() - start
    return Transfers(tuple(latencies[WARM_UP:]), count / seconds), state


def rounds_of(
    calls: Mapping[str, tuple[Call, Any]], rounds: int, count: int
) -> dict[str, list[float]]:
    """Milliseconds a call of several programs in turn, one number a round.

    All programs are in every round, so that a clock that changes with time changes
    them alike and their differences little.

    Args:
      calls: program and its first carry, by name.
      rounds: how often all have their turn.
      count: calls of a turn, none of which waits for the one before.
    """
    carries = {name: carry for name, (_, carry) in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(1 + rounds):
        for name, (call, _) in calls.items():
            taken, carries[name] = back_to_back(call, carries[name], count)
            if index:  # the first one warms up
                found[name].append(taken)
    return found


@dataclasses.dataclass(frozen=True)
class Stage:
    """Milliseconds of one run of a stage.

    Attributes:
      p50: median over the rounds.
      spread: third less first quartile of them.
    """

    p50: float
    spread: float


def stages_of(found: Mapping[str, Sequence[float]], passes: int) -> dict[str, Stage]:
    """Each stage by what the frame is quicker without it.

    Args:
      found: milliseconds by round of "without_nothing", "without_encode",
        "without_pass" and "without_decode"; and of whole frames "commit_...", which
        differ in their commit alone.
      passes: of a frame; "without_pass" has none of them.

    Returns:
      "frame", "encode", "pass" (one of them), "decode", "rest", which is what the frame
      takes beyond the sum of its stages, and what a commit takes more.
    """
    whole = np.asarray(found["without_nothing"])
    values = {"frame": whole}
    for name, times in found.items():
        if name == "without_nothing":
            continue
        if name.startswith("without_"):
            part = name.removeprefix("without_")
            runs = passes if part == "pass" else 1
            values[part] = (whole - np.asarray(times)) / runs
        else:
            values[name] = np.asarray(times) - whole
    if {"encode", "pass", "decode"} <= values.keys():
        stages = values["encode"] + passes * values["pass"] + values["decode"]
        values["rest"] = whole - stages
    return {name: _stage(times) for name, times in values.items()}


def _stage(times: np.ndarray) -> Stage:
    low, high = np.percentile(times, (25, 75)).tolist()
    return Stage(statistics.median(times.tolist()), high - low)
