"""A camera of this machine that other programs can choose, by pyvirtualcam.

It needs `pip install pyvirtualcam` and a driver: v4l2loopback on Linux, OBS's virtual
camera on Windows and macOS.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mirage_jax.errors import MirageError

_RATE = 30  # frames a second that programs are told; pictures come when they come


def check_virtual_camera() -> None:
    """Raises MirageError where pyvirtualcam is not installed."""
    if importlib.util.find_spec("pyvirtualcam") is None:
        raise MirageError(
            "a virtual camera needs pyvirtualcam: pip install pyvirtualcam, or leave "
            "--config.virtual_camera out"
        )


class VirtualCamera:
    """A sink, see `mirage_jax.video.sinks`.

    Raises:
      MirageError: pyvirtualcam or its driver is missing.
    """

    def __init__(self, height: int, width: int):
        check_virtual_camera()
        import pyvirtualcam  # an extra, which few have

        try:
            self._camera: Any = pyvirtualcam.Camera(
                width, height, _RATE, fmt=pyvirtualcam.PixelFormat.RGB
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise MirageError(
                f"there is no virtual camera ({reason}): load v4l2loopback, or install "
                "OBS on Windows and macOS"
            ) from error

    def write(self, image: UInt8[np.ndarray, "H W 3"], time: float) -> None:
        self._camera.send(image)

    def close(self) -> None:
        self._camera.close()
