"""Source frames for steps that use them up."""

import collections
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


class SourceFeed:
    """Frames of the host that go round; each call takes one that lies on the device.

    Args:
      frames: source bytes, [B, H, W, 3] each.
    """

    def __init__(self, frames: Sequence[np.ndarray]):
        self._turn = itertools.cycle(frames)
        self._waiting: collections.deque[Any] = collections.deque()

    def ready(self, count: int) -> None:
        """Puts frames for so many calls on the device, and waits until they are."""
        for _ in range(count):
            self._waiting.append(jax.device_put(next(self._turn)))
        jax.block_until_ready(list(self._waiting))

    def take(self) -> Any:
        """The next one, which is the caller's."""
        return self._waiting.popleft()
