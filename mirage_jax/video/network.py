"""Video from an address (RTSP, HTTP, ...), which is opened again when it is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import av
import av.error

from mirage_jax.closing import Closing
from mirage_jax.errors import MirageError, reason_of
from mirage_jax.video.reader import Frame, upright_rgb

_LOG = logging.getLogger(__name__)
_TIMEOUT = 10.0  # seconds without a byte
_PAUSES = (1.0, 2.0, 5.0, 10.0)  # seconds between tries
_OPTIONS = {"rtsp": {"rtsp_transport": "tcp", "fflags": "nobuffer"}}


class NetworkSource(Closing):
    """Frames from an address, without end.

    A live source, see `mirage_jax.video.sources`. Times go on across a loss.

    Args:
      address: what FFmpeg can open.
      pauses: seconds between tries, the last again and again.

    Raises:
      MirageError: it cannot be opened the first time.
    """

    def __init__(self, address: str, pauses: tuple[float, ...] = _PAUSES):
        self._address, self._pauses = address, pauses
        self._scheme = address.partition("://")[0].lower()
        self._closed = threading.Event()
        try:
            self._container = self._open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MirageError(
                f"cannot open the {self._scheme} source ({reason_of(error)}): check "
                "the address given as --config.source"
            ) from error

    def __iter__(self) -> Iterator[Frame]:
        last, tries = 0.0, 0
        while not self._closed.is_set():
            shift = None
            try:
                if tries:
                    self._container = self._open()
                for decoded in self._container.decode(video=0):
                    time = float(decoded.time or 0.0)
                    if shift is None:
                        shift = last - time
                    last, tries = max(last, time + shift), 0
                    yield Frame(upright_rgb(decoded), last)
                _LOG.info("the %s source ended", self._scheme)
            except (av.error.FFmpegError, OSError, ValueError) as error:
                _LOG.info("the %s source is lost: %s", self._scheme, reason_of(error))
            finally:
                self._container.close()
            self._closed.wait(self._pauses[min(tries, len(self._pauses) - 1)])
            tries += 1

    def _open(self) -> av.container.InputContainer:
        options = dict(_OPTIONS.get(self._scheme, {}))
        container = av.open(self._address, "r", options=options, timeout=_TIMEOUT)
        if not container.streams.video:
            container.close()
            raise ValueError("it has no video")
        return container

    def close(self) -> None:
        self._closed.set()
        self._container.close()
