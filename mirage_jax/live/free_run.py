"""A stream that goes on by itself while its client's camera is lost."""

from __future__ import annotations

import collections
import itertools
import math
import statistics

_SHORTEST = 1 / 30  # seconds between two frames
_PICTURES = 16  # whose times tell the pace
_MISSED = 3  # frames that a client may leave out


class FreeRun:
    """When the stream of a client takes frames without a source.

    They keep the pace that its pictures had, at most 30 a second. They go along with
    the frames of other clients, and have a step of their own where none came for half
    as long again as they should wait: a lost camera costs the others little.

    Args:
      patience: seconds without a source until a camera is lost; where sources came more
        seldom, three times what lay between them counts. Infinite: it never is.

    Attributes:
      on: whether the last frame had no source.
    """

    def __init__(self, patience: float):
        self.on = False
        self._patience = patience
        self._heard = self._limit = 0.0
        self._shown: collections.deque[float] = collections.deque(maxlen=_PICTURES)

    def heard(self, now: float) -> None:
        """A source came."""
        self._heard = now

    def shown(self, now: float) -> None:
        """Its picture is there: only now a client that waits for it can send more."""
        self._heard = now
        self._shown.append(now)

    def forget(self) -> None:
        """The stream starts anew: there is nothing to go on from yet."""
        self._shown.clear()

    def lost(self, now: float) -> bool:
        """Whether nothing has come for so long that nothing is expected."""
        return now >= self._begin()

    def due(self) -> float:
        """When the next frame takes a step of its own."""
        return max(self._begin(), self._limit)

    def may_go_along(self, now: float) -> bool:
        """Whether a step that is made anyway takes it."""
        return self.lost(now) and now >= self._limit - self._interval()

    def taken(self, now: float, alone: bool) -> None:
        """A frame without a source is made, `alone` in a step of its own."""
        interval = self._interval()
        company = 0.0 if alone else interval / 2
        self._limit = max(self._limit, now + company) + interval

    def _begin(self) -> float:
        return self._heard + max(self._patience, _MISSED * self._interval())

    def _interval(self) -> float:
        """Seconds between frames; infinite while nobody knows."""
        times = list(self._shown)
        between = [later - one for one, later in itertools.pairwise(times)]
        return max(_SHORTEST, statistics.median(between)) if between else math.inf
