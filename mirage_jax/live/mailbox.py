"""A place for one thing: the newest wins."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Holds the newest item; one that nobody took in time is dropped and counted.

    A live stream that falls behind must skip, not queue: whoever waits in a queue is
    late for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._item: T | None = None
        self.dropped = 0

    def put(self, item: T) -> None:
        with self._lock:
            self.dropped += self._item is not None
            self._item = item

    def take(self) -> T | None:
        """The newest item, once; None if nothing came since the last call."""
        with self._lock:
            item, self._item = self._item, None
            return item

    def look(self) -> T | None:
        """The newest item, which stays."""
        return self._item
