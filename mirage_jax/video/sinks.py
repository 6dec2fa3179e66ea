"""Where a live stream's pictures go besides a page: small classes of one protocol.

A sink of your own needs `write` and `close`, and a line in `sink_openers`. It may block
as long as it likes: it has a thread of its own and gets the newest picture that there
is (`mirage_jax.live.sink_thread`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from mirage_jax.video.live_writer import LiveWriter, check_push, check_record
from mirage_jax.video.virtual_camera import VirtualCamera, check_virtual_camera


class FrameSink(Protocol):
    """Takes pictures one after the other; used by one thread."""

    def write(self, image: UInt8[np.ndarray, "H W 3"], time: float) -> None:
        """One picture and its time in seconds, which never goes back.

        Raises:
          Exception: it is broken; it is closed, and later another one is opened.
        """

    def close(self) -> None:
        """Ends it; called once, also after an error."""


OpenSink = Callable[[], FrameSink]


def sink_openers(
    height: int, width: int, record: str, push: str, virtual_camera: bool
) -> dict[str, OpenSink]:
    """How to open the sinks that are asked for, by a name for people.

    Args:
      height, width: of the pictures.
      record: a file to write, .mp4 or .mkv; "" for none.
      push: an address to push to, rtmp:// for example; "" for none.
      virtual_camera: whether to be a camera of this machine.

    Raises:
      MirageError: one of them cannot be had here.
    """
    openers: dict[str, OpenSink] = {}
    if record:
        check_record(record)
        openers["recording"] = lambda: LiveWriter.to_file(record, height, width)
    if push:
        check_push(push)
        openers["push"] = lambda: LiveWriter.to_address(push, height, width)
    if virtual_camera:
        check_virtual_camera()
        openers["virtual camera"] = lambda: VirtualCamera(height, width)
    return openers
