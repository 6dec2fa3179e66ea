"""Prompts over time: "0s: a watercolour; 4s: neon city"."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from mirage_jax.errors import MirageError

_EXAMPLE = '"0s: a watercolour; 4s: neon city"'
_TIME = re.compile(r"(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


@dataclass(frozen=True)
class PromptSchedule:
    """Prompt i holds from times[i] (seconds, rising, times[0] = 0) to the next."""

    times: tuple[float, ...]
    prompts: tuple[str, ...]

    def index_at(self, time: float) -> int:
        """Which prompt holds at `time` seconds."""
        # Half a microsecond forgives rounding: frame 96 of 24 a second is at 4 s.
        return max(0, bisect.bisect_right(self.times, time + 5e-7) - 1)


def parse_schedule(text: str, prompt: str = "") -> PromptSchedule:
    """Reads a schedule; with an empty one, `prompt` holds throughout.

    Args:
      text: parts "TIME: PROMPT" split by semicolons, times rising. A time is
        seconds ("4s", "4", "1.5s") or minutes and seconds ("1m30s"). A prompt may
        hold colons but no semicolon.
      prompt: holds from 0 s if the schedule begins later.

    Raises:
      MirageError: names the part that is wrong.
    """
    if not text.strip():
        return PromptSchedule((0.0,), (prompt,))
    parts = text.split(";")
    if not parts[-1].strip():
        parts.pop()
    times: list[float] = []
    prompts: list[str] = []
    for part in parts:
        time, colon, words = (piece.strip() for piece in part.partition(":"))
        seconds = _read_time(time)
        if not colon or seconds is None:
            raise _bad(part, "it does not begin with a time and a colon")
        if not words:
            raise _bad(part, "it has no prompt")
        if times and seconds <= times[-1]:
            raise _bad(part, f"{seconds:g} s is not later than {times[-1]:g} s")
        times.append(seconds)
        prompts.append(words)
    if times[0] > 0:
        if not prompt.strip():
            raise _bad(parts[0], "nothing is said for 0s; begin there or give a prompt")
        times.insert(0, 0.0)
        prompts.insert(0, prompt)
    return PromptSchedule(tuple(times), tuple(prompts))


def _read_time(text: str) -> float | None:
    match = _TIME.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    return 60.0 * float(match[1] or 0) + float(match[2] or 0)


def _bad(part: str, reason: str) -> MirageError:
    shown = " ".join(part.split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return MirageError(
        f"prompt schedule: cannot read {shown!r}: {reason}; write it like {_EXAMPLE}"
    )
