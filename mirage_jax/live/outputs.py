"""The sinks of a server's config: they follow one stream at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mirage_jax.live.client import StyledFrame
from mirage_jax.live.sink_thread import SinkThread


class Outputs:
    """Recording, push and virtual camera of the first stream that is there.

    A server has one recording and one address to push to, whoever comes. The first
    stream that shows a styled picture has them until it leaves; then the next one.

    Args:
      threads: one for each sink.
    """

    def __init__(self, threads: Sequence[SinkThread] = ()):
        self._threads = tuple(threads)
        self._lock = threading.Lock()
        self._owner: object | None = None

    def frame(self, stream: object, frame: StyledFrame) -> None:
        """A picture of a stream; the source that comes back during warm-up is none."""
        if not self._threads or not frame.styled:
            return
        with self._lock:
            if self._owner is None:
                self._owner = stream
            if self._owner is not stream:
                return
        for thread in self._threads:
            thread.frame(frame.image)

    def release(self, stream: object) -> None:
        """The stream is over."""
        with self._lock:
            if self._owner is stream:
                self._owner = None

    @property
    def written(self) -> int:
        return sum(thread.written for thread in self._threads)

    @property
    def dropped(self) -> int:
        return sum(thread.dropped for thread in self._threads)

    @property
    def failures(self) -> int:
        return sum(thread.failures for thread in self._threads)

    def close(self) -> None:
        """Ends all sinks; files are whole afterwards."""
        for thread in self._threads:
            thread.close()
