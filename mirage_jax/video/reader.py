"""Reading a video file as upright RGB frames with times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from mirage_jax.closing import Closing
from mirage_jax.errors import MirageError, reason_of
from mirage_jax.video.opening import open_source
from mirage_jax.video.orientation import read_orientation

_UNSPECIFIED_COLOUR = 2  # ISO/IEC 23091-2: "unknown" matrix coefficients
_HD_SIDE = 720  # from here on, untagged video is BT.709 by custom; below, BT.601
_PLAUSIBLE_RATE = (Fraction(1), Fraction(240))
_USUAL_RATE = Fraction(25)


@dataclass(frozen=True)
class VideoInfo:
    """What the file says about itself before a frame is decoded.

    Attributes:
      rate: average frames a second, put right where the file says nothing usable.
      duration: seconds; None if the file does not say.
      frames: frames at `rate` in `duration`; None if unknown. An estimate.
      has_audio: whether there is a sound track to keep.
    """

    path: Path
    rate: Fraction
    duration: float | None
    frames: int | None
    has_audio: bool


@dataclass(frozen=True)
class Frame:
    """One picture and when it is shown, in seconds of the file's own clock."""

    image: UInt8[np.ndarray, "H W 3"]
    time: float


class VideoReader(Closing):
    """Iterates over the frames of the first video stream of a file.

    Frames come upright (rotation and mirroring of the display matrix applied), with
    square pixels, as uint8 RGB, whatever the pixel format. Their size may change
    within a file. Times are those of the file and need not be even: see
    `constant_rate`. A frame that cannot be decoded is skipped and counted.

    Attributes:
      info: what the file says about itself.
      skipped: damaged packets and frames met so far.
      start: time of the first frame read, in seconds; None before it.

    Raises:
      MirageError: missing or unreadable file, no video stream; from the iteration,
        a file without one frame that can be decoded.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        _check_file(self.path)
        try:
            self._container = open_source(self.path)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MirageError(
                f"cannot read {self.path} as video ({reason_of(error)}); "
                "give a video file such as mp4, mov, mkv or webm"
            ) from error
        if not self._container.streams.video:
            kinds = ", ".join(sorted({s.type for s in self._container.streams}))
            self._container.close()
            raise MirageError(
                f"{self.path} has no video, only {kinds or 'empty tracks'}; "
                "give a file with pictures"
            )
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.info = _describe(self.path, self._container, self._stream)
        self.skipped = 0
        self.start: float | None = None

    def __iter__(self) -> Iterator[Frame]:
        count = 0
        aspect = _pixel_aspect(self._stream)
        for decoded in self._decode():
            try:
                image = upright_rgb(decoded, aspect)
            except (av.error.FFmpegError, ValueError):
                self.skipped += 1
                continue
            time = decoded.time
            if time is None:  # raw streams: count frames instead
                time = float(count / self.info.rate)
            if self.start is None:
                self.start = float(time)
            count += 1
            yield Frame(image, float(time))
        if not count:
            damage = f" ({self.skipped} damaged)" if self.skipped else ""
            raise MirageError(
                f"{self.path} has no frame that can be decoded{damage}; "
                "check that it plays, or give another file"
            )

    def _decode(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError):
                self.skipped += 1  # the rest of the file is cut off or unreadable
                return
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                self.skipped += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.skipped += 1
                else:
                    yield frame

    def close(self) -> None:
        self._container.close()


def _check_file(path: Path) -> None:
    if not str(path) or str(path) == ".":
        raise MirageError("no source is given: set --config.source=FILE")
    if not path.exists():
        raise MirageError(f"there is no file {path}: check --config.source")
    if path.is_dir():
        raise MirageError(f"{path} is a folder: --config.source takes one video file")
    if path.stat().st_size == 0:
        raise MirageError(f"{path} is empty (0 bytes): give a video file")


def _describe(
    path: Path, container: av.container.InputContainer, stream: VideoStream
) -> VideoInfo:
    rate = _USUAL_RATE
    for said in (stream.average_rate, stream.guessed_rate):
        exact = Fraction(said.numerator, said.denominator) if said else Fraction(0)
        if _PLAUSIBLE_RATE[0] <= exact <= _PLAUSIBLE_RATE[1]:
            rate = exact.limit_denominator(1001)
            break
    duration = None
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    return VideoInfo(
        path=path,
        rate=rate,
        duration=duration,
        frames=max(1, round(duration * rate)) if duration else None,
        has_audio=bool(container.streams.audio),
    )


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height; 1 where the file says nothing sensible."""
    said = stream.sample_aspect_ratio
    aspect = Fraction(said.numerator, said.denominator) if said else Fraction(0)
    return aspect if Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def upright_rgb(
    frame: VideoFrame, aspect: Fraction = Fraction(1)
) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame as people should see it.

    Args:
      frame: of any pixel format.
      aspect: width of a pixel over its height.
    """
    width = max(1, round(frame.width * aspect))
    untagged = int(frame.colorspace) == _UNSPECIFIED_COLOUR
    hd = min(frame.width, frame.height) >= _HD_SIDE
    is_yuv = frame.format.name.startswith("yuv")
    colours = "ITU709" if untagged and hd and is_yuv else None
    rgb = frame.reformat(width=width, format="rgb24", src_colorspace=colours)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    turn = read_orientation(None if matrix is None else bytes(cast(Any, matrix)))
    return turn.apply(rgb.to_ndarray())
