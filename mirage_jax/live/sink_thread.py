"""A thread for a sink, so that nothing it does holds up a stream."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from mirage_jax.live.mailbox import Mailbox
from mirage_jax.video.sinks import FrameSink, OpenSink

_LOG = logging.getLogger(__name__)
_BACK_OFF = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between tries to open a sink


class SinkThread:
    """Carries the newest picture to a sink, and opens the sink again when it breaks.

    Args:
      name: for the log.
      open_sink: called on the thread when the first picture comes.
      clock: seconds.
      pauses: seconds between tries, the last again and again.

    Attributes:
      written: pictures that the sink took.
      failures: times that it broke or could not be opened.
    """

    def __init__(
        self,
        name: str,
        open_sink: OpenSink,
        clock: Callable[[], float] = time.monotonic,
        pauses: tuple[float, ...] = _BACK_OFF,
    ):
        self.written = self.failures = 0
        self._name, self._open = name, open_sink
        self._clock, self._pauses = clock, pauses
        self._newest: Mailbox[tuple[UInt8[np.ndarray, "H W 3"], float]] = Mailbox()
        self._came, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Pictures for which the sink was too slow."""
        return self._newest.dropped

    def frame(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """A picture of now; returns at once."""
        self._newest.put((image, self._clock()))
        self._came.set()

    def close(self, timeout: float = 10.0) -> bool:
        """Lets the sink take the last picture and end; False if it does not in time."""
        self._closed.set()
        self._came.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failed = 0  # times one after the other
        while not self._closed.is_set():
            before = self.written
            try:
                self._carry()
            except Exception as error:  # a user's sink may raise anything
                self.failures += 1
                failed = 1 if self.written > before else failed + 1
                pause = self._pauses[min(failed, len(self._pauses)) - 1]
                _LOG.error("%s: %s; again in %g s", self._name, error, pause)
                self._closed.wait(pause)

    def _carry(self) -> None:
        """Opens a sink for the next picture and feeds it until all is over."""
        sink: FrameSink | None = None
        try:
            while True:
                self._came.wait()
                self._came.clear()
                last = self._closed.is_set()
                if item := self._newest.take():
                    if sink is None:
                        sink = self._open()
                        _LOG.info("%s: open", self._name)
                    sink.write(*item)
                    self.written += 1
                if last:
                    break
        except BaseException:
            if sink is not None:
                _end_quietly(sink)
            raise
        if sink is not None:
            sink.close()


def _end_quietly(sink: FrameSink) -> None:
    """Ends a sink that is broken already: what it says now is no news."""
    try:
        sink.close()
    except Exception:
        pass
