"""How many steps the next frame takes, and that their program is there in time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from mirage_jax.live.device import Device

_LOG = logging.getLogger(__name__)


class Steps:
    """The most that a client wishes: all of them share one program.

    What nobody wishes is never compiled. What is not there yet is compiled on a thread
    of its own, while frames go on with the steps that are.

    Args:
      device: compiles; it is opened with steps of its own.
      failed: called on that thread with steps that cannot be had, once.
    """

    def __init__(self, device: Device, failed: Callable[[int], None]):
        self._device, self._failed = device, failed
        self._ready = frozenset({device.steps})
        self._hopeless: frozenset[int] = frozenset()
        self._thread: threading.Thread | None = None

    @property
    def compiling(self) -> bool:
        """Whether the thread is at work, which nothing can interrupt."""
        return self._thread is not None and self._thread.is_alive()

    def wanted(self, wishes: Collection[int]) -> int:
        """The most of all clients' wishes that may be had."""
        possible = [steps for steps in wishes if steps not in self._hopeless]
        return max(possible, default=self._device.steps)

    def choose(self, wanted: int) -> int:
        """Steps of the next frame; for the device's thread, before every frame."""
        if wanted not in (self._ready | self._hopeless) and not self.compiling:
            self._thread = threading.Thread(
                target=self._prepare, args=(wanted,), name="compiler", daemon=True
            )
            self._thread.start()
        fewer = [steps for steps in self._ready if steps <= wanted]
        return max(fewer, default=min(self._ready))

    def _prepare(self, steps: int) -> None:
        try:
            self._device.prepare(steps)
        except Exception as error:  # of the compiler: what is there goes on
            _LOG.error("frames of %d steps could not be compiled: %r", steps, error)
            self._hopeless |= {steps}
            self._failed(steps)
        else:
            self._ready |= {steps}
