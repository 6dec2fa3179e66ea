"""Cameras and the screen of this machine, through FFmpeg's devices in PyAV."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Self

import av
import av.error

from mirage_jax.closing import Closing
from mirage_jax.errors import MirageError, reason_of
from mirage_jax.video.reader import Frame, upright_rgb

_TIMEOUT = 10.0  # seconds without a frame
# FFmpeg's name of the cameras of a system, and how it calls number n.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
_SCREENS = {"linux": "x11grab", "win32": "gdigrab"}
_REGION = re.compile(r"(\d{1,5})x(\d{1,5})(?:\+(\d{1,5})\+(\d{1,5}))?")


class CaptureDevice(Closing):
    """Frames of one of FFmpeg's devices.

    A live source, see `mirage_jax.video.sources`.

    Args:
      name: for people.
      container: FFmpeg's name of the kind of device.
      address: FFmpeg's name of the device.
      options: of the device.

    Raises:
      MirageError: there is none, or another program has it.
    """

    def __init__(
        self, name: str, container: str, address: str, options: dict[str, str]
    ):
        self._name = name
        try:
            self._container = av.open(
                address, "r", format=container, options=options, timeout=_TIMEOUT
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MirageError(
                f"cannot open {name} ({address}: {reason_of(error)}): check that it is "
                "there and free, or take another --config.source"
            ) from error

    @classmethod
    def camera(cls, number: str) -> Self:
        """A camera by its number from 0; on Windows by its name."""
        if sys.platform != "win32" and not number.isdecimal():
            raise MirageError(
                f"camera {number!r} is no number: write --config.source=camera:0"
            )
        container, pattern = _CAMERAS.get(sys.platform, (None, ""))
        container = _readable("camera", container)
        return cls(f"camera {number}", container, pattern.format(number), {})

    @classmethod
    def screen(cls, region: str) -> Self:
        """The screen, or "640x480+10+20" of it: columns x rows, and the corner."""
        container = _readable("screen", _SCREENS.get(sys.platform))
        options = {"framerate": "30", "draw_mouse": "1"}
        x = y = "0"
        if region:
            found = _REGION.fullmatch(region)
            if found is None:
                raise MirageError(
                    f"screen region {region!r} is none: write columns x rows and the "
                    "corner, such as screen:640x480+0+0"
                )
            options["video_size"] = f"{found[1]}x{found[2]}"
            x, y = found[3] or "0", found[4] or "0"
        if container == "gdigrab":
            options |= {"offset_x": x, "offset_y": y}
            return cls("the screen", container, "desktop", options)
        display = os.environ.get("DISPLAY")
        if not display:
            raise MirageError(
                "the screen cannot be read: DISPLAY is not set; there is no X server"
            )
        return cls("the screen", container, f"{display}+{x},{y}", options)

    def __iter__(self) -> Iterator[Frame]:
        stream = self._container.streams.video[0]
        try:
            for number, decoded in enumerate(self._container.decode(stream)):
                time = number / 30 if decoded.time is None else float(decoded.time)
                yield Frame(upright_rgb(decoded), time)
        except (av.error.FFmpegError, OSError) as error:
            raise MirageError(
                f"{self._name} is gone ({reason_of(error)}): plug it in and start again"
            ) from error

    def close(self) -> None:
        self._container.close()


def _readable(what: str, container: str | None) -> str:
    """FFmpeg's name of this system's devices, if this build of PyAV has them."""
    try:
        if container is not None and av.ContainerFormat(container).is_input:
            return container
    except ValueError:
        pass
    raise MirageError(
        f"PyAV cannot read a {what} on this system: take another --config.source"
    )
