"""Source frames for steps that use them up."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class SourceFeed:
    """Frames that lie on the device and go round; each call takes a copy of one.

    Args:
      frames: source bytes, [B, H, W, 3] each.
    """

    def __init__(self, frames: Sequence[np.ndarray]):
        self._turn = itertools.cycle(jax.block_until_ready(jax.device_put(frames)))
        self._copy = jax.jit(jnp.copy)
        self._waiting: Any = None

    def ready(self) -> None:
        """Makes the next one, and waits until it is there."""
        self._waiting = jax.block_until_ready(self._copy(next(self._turn)))

    def take(self) -> Any:
        """The next one, which is the caller's; made now if it was not made ready."""
        if self._waiting is None:
            return self._copy(next(self._turn))
        source, self._waiting = self._waiting, None
        return source
