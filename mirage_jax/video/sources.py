"""Where a live stream's frames come from besides a page: small classes of one protocol.

A source of your own is a `Closing` that iterates over `Frame`s; add a line to
`live_source`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from mirage_jax.video.capture import CaptureDevice
from mirage_jax.video.network import NetworkSource
from mirage_jax.video.pattern import TestPattern
from mirage_jax.video.reader import Frame, VideoReader


class LiveSource(AbstractContextManager, Protocol):
    """Frames of any size as they come; used by one thread."""

    def close(self) -> None:
        """Lets go of the device or the connection."""

    def __iter__(self) -> Iterator[Frame]:
        """Blocks for the next frame; ends where the source does.

        Raises:
          MirageError: the source is gone for good.
        """


def live_source(text: str) -> tuple[LiveSource, bool]:
    """Opens what a config's source names.

    Args:
      text: "pattern", "camera" or "camera:0" (its number), "screen" or
        "screen:640x480+0+0" (columns x rows, and the corner), an address (rtsp://,
        http://, ...), or a video file.

    Returns:
      The source, and whether its frames come faster than their times, as a file's do,
      so that `paced` must hold them back.

    Raises:
      MirageError: there is no such source.
    """
    kind, _, rest = text.partition(":")
    if text == "pattern":
        return TestPattern(), True
    if kind == "camera" and not rest.startswith("//"):
        return CaptureDevice.camera(rest or "0"), False
    if kind == "screen" and not rest.startswith("//"):
        return CaptureDevice.screen(rest), False
    if "://" in text:
        return NetworkSource(text), False
    return VideoReader(text), True


def paced(
    frames: Iterable[Frame],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frame]:
    """Frames at their own times: early ones wait, late ones come at once."""
    begin = None
    for frame in frames:
        if begin is None:
            begin = clock() - frame.time
        ahead = begin + frame.time - clock()
        if ahead > 0:
            sleep(ahead)
        yield frame
