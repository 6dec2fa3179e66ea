"""SIGTERM and Ctrl-C as a flag that the training loop reads between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class StopSignal:
    """Context in which the first SIGTERM or SIGINT is only noted.

    A second SIGINT raises KeyboardInterrupt, so that an impatient user gets out. In
    any thread but the main one Python allows no handlers: nothing is noted then.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
