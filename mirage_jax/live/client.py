"""One viewer, as the engine sees it: frames in, frames and words out."""

from __future__ import annotations

import collections
import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.live.free_run import FreeRun
from mirage_jax.live.mailbox import Mailbox

_WINDOW = 2.0  # seconds over which frames a second are counted


@dataclasses.dataclass(frozen=True)
class SourceFrame:
    """A camera's frame.

    Attributes:
      sequence: the client's own number.
      captured: when it was taken, in milliseconds of the client's own clock; only
        carried along.
      image: RGB of the engine's size.
      arrived: when it came, in seconds of the engine's clock.
    """

    sequence: int
    captured: float
    image: UInt8[np.ndarray, "H W 3"]
    arrived: float = 0.0


@dataclasses.dataclass(frozen=True)
class StyledFrame:
    """What a client gets for a source frame.

    Attributes:
      sequence, captured: those of the source frame.
      image: RGB.
      styled: False while the engine warms up: the source itself.
      free: made without a source, while the camera is lost; that frame was its last.
    """

    sequence: int
    captured: float
    image: UInt8[np.ndarray, "H W 3"]
    styled: bool = True
    free: bool = False


class Sink(Protocol):
    """Where a client's results go; called from the device's thread, must not block."""

    def frame(self, frame: StyledFrame) -> None: ...

    def state(self, name: str, detail: str, retry: bool) -> None:
        """`name` is a state of `mirage_jax.live.protocol`; `retry`: come back later."""


@dataclasses.dataclass(frozen=True)
class ClientStatistics:
    """Counts of one client since it joined.

    Attributes:
      fps: pictures a second, over the last two, also those without a source.
    """

    received: int
    styled: int
    dropped: int
    reanchored: int
    fps: float


class Client:
    """A stream of its own on the device. Changed by the engine alone.

    Attributes:
      prompt: the vector that its stream follows.
      strength: how much of the style its pictures have, see `with_strength`.
      steps: denoiser passes a frame that it wishes.
      renew: its stream must start anew before the next frame.
      new_prompt: its prompt slots must be written before the next frame.
      newest: its last source frame that was styled.
      free_run: when its stream goes on without one.
    """

    def __init__(
        self,
        sink: Sink,
        prompt: Float[np.ndarray, " 384"],
        strength: float,
        steps: int,
        lost: float,
        now: float,
    ):
        self.sink = sink
        self.prompt, self.strength, self.steps = prompt, strength, steps
        self.renew = True
        self.new_prompt = False
        self.mailbox: Mailbox[SourceFrame] = Mailbox()
        self.newest: SourceFrame | None = None
        self.free_run = FreeRun(lost)
        self.joined = self.last_frame = now
        self.received = self.styled = self.late = self.reanchored = 0
        self._shown: collections.deque[float] = collections.deque(maxlen=512)

    def shown(self, now: float, free: bool) -> None:
        """Counts a styled frame, `free` without a source."""
        self._shown.append(now)
        if not free:
            self.styled += 1
            self.free_run.shown(now)

    @property
    def dropped(self) -> int:
        return self.mailbox.dropped + self.late

    def statistics(self, now: float) -> ClientStatistics:
        recent = sum(now - moment <= _WINDOW for moment in self._shown)
        span = min(_WINDOW, max(now - self.joined, 0.5))
        return ClientStatistics(
            self.received, self.styled, self.dropped, self.reanchored, recent / span
        )
