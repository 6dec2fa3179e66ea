"""A live stream as H.264, into a file or to an address, with its own times.

Other than `VideoWriter`, whose rate is constant and whose file appears when it is
whole, this one takes pictures when they come, and what it has written can be played
after a crash.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from jaxtyping import UInt8

from mirage_jax.errors import MirageError, reason_of
from mirage_jax.staged_file import write_errors
from mirage_jax.video.h264 import add_h264, yuv_frame

_CLOCK = 1000  # ticks a second: the finest that FLV has
_RATE = 30  # what files say of themselves; frames have their own times
_LONGEST_GAP = 5.0  # seconds of a still picture; a longer pause is cut
_KEYFRAMES = 2.0  # seconds between pictures at which a player can begin
_TIMEOUT = 10.0  # seconds that a server may take
_FILES = {".mp4": "mp4", ".mkv": "matroska"}
_ADDRESSES = {
    "rtmp": "flv",
    "rtmps": "flv",
    "srt": "mpegts",
    "udp": "mpegts",
    "tcp": "mpegts",
}
# In pieces, each whole by itself and on the disk at once.
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
_AT_ONCE = {"flush_packets": "1"}


def check_record(path: str) -> None:
    """Raises MirageError unless such a file can be made; makes its folder."""
    if Path(path).suffix.lower() not in _FILES:
        raise MirageError(
            f"cannot record into {path}: the name must end in {' or '.join(_FILES)}"
        )
    with write_errors(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass


def check_push(address: str) -> None:
    """Raises MirageError unless PyAV can send to such an address."""
    scheme = address.partition("://")[0].lower()
    if "://" not in address or scheme not in _ADDRESSES:
        raise MirageError(
            f"cannot push to {address!r}: give an address that begins with "
            f"{', '.join(f'{name}://' for name in _ADDRESSES)}"
        )


def free_path(path: str | Path) -> Path:
    """The path itself, or with -2, -3, ... where there is a file: none is replaced."""
    first = path = Path(path)
    number = 1
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    return path


class LiveWriter:
    """A sink, see `mirage_jax.video.sinks`.

    Args:
      target: what PyAV opens.
      container: FFmpeg's name of the format.
      height, width: of the pictures, even.
      options: of the container.
      live: whether somebody waits at the other end, so that nothing may be held back.

    Attributes:
      frames: written so far.

    Raises:
      MirageError: the file or the address cannot be written to.
    """

    def __init__(
        self,
        target: str,
        container: str,
        height: int,
        width: int,
        options: dict[str, str],
        live: bool,
    ):
        self.target, self.frames = target, 0
        self._ticks, self._last_time, self._keyed = -1, 0.0, -1
        try:
            self._container = av.open(
                target,
                "w",
                format=container,
                container_options=options,
                timeout=_TIMEOUT if live else None,
            )
        except (av.error.FFmpegError, OSError) as error:
            raise _failure(target, error) from error
        x264 = {"preset": "veryfast", "crf": "20", "bf": "0"}
        if live:
            x264 |= {"tune": "zerolatency", "maxrate": "6M", "bufsize": "6M"}
        self._stream = add_h264(self._container, height, width, _RATE, x264)
        self._stream.time_base = Fraction(1, _CLOCK)
        self._stream.codec_context.time_base = Fraction(1, _CLOCK)

    @classmethod
    def to_file(cls, path: str, height: int, width: int) -> Self:
        """Records into a new file; `free_path` gives its name."""
        check_record(path)
        free = free_path(path)
        name = _FILES[free.suffix.lower()]
        options = _AT_ONCE | (_FRAGMENTS if name == "mp4" else {})
        # "file:" keeps a name with a colon from being taken for a protocol.
        return cls(f"file:{free}", name, height, width, options, live=False)

    @classmethod
    def to_address(cls, address: str, height: int, width: int) -> Self:
        """Pushes to a server: RTMP, SRT, or MPEG-TS over UDP or TCP."""
        check_push(address)
        name = _ADDRESSES[address.partition("://")[0].lower()]
        return cls(address, name, height, width, {}, live=True)

    def write(self, image: UInt8[np.ndarray, "H W 3"], time: float) -> None:
        """Appends a picture that is shown from `time` (seconds of any clock) on."""
        frame = yuv_frame(image)
        gap = min(time - self._last_time, _LONGEST_GAP) if self.frames else 0.0
        self._last_time = time
        self._ticks += max(1, round(gap * _CLOCK))
        frame.pts, frame.time_base = self._ticks, Fraction(1, _CLOCK)
        if self._keyed < 0 or self._ticks - self._keyed >= _KEYFRAMES * _CLOCK:
            frame.pict_type = av.video.frame.PictureType.I
            self._keyed = self._ticks
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise _failure(self.target, error) from error
        self.frames += 1

    def close(self) -> None:
        """Writes what is held back.

        Raises:
          MirageError: the disk is full, or the server is gone.
        """
        try:
            if self.frames:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise _failure(self.target, error) from error


def _failure(target: str, error: Exception) -> MirageError:
    scheme, there, _ = target.partition("://")
    if not there:
        return MirageError(
            f"cannot write to {target.removeprefix('file:')}: {reason_of(error)}; make "
            "room, or choose another folder"
        )
    # An address often carries a stream's key: it is not for the log.
    cure = "check the address given as --config.push, and that its server listens"
    reason = reason_of(error)
    if isinstance(error, av.error.ProtocolNotFoundError):
        reason = "this build of PyAV does not speak it"
        cure = "push by another protocol"
    return MirageError(f"cannot write to {scheme}://...: {reason}; {cure}")
