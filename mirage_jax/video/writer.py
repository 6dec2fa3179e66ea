"""Writing frames as H.264 mp4 that any browser and phone plays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import numpy as np
from jaxtyping import UInt8

from mirage_jax.errors import MirageError
from mirage_jax.staged_file import StagedFile, write_errors
from mirage_jax.video.audio import AudioTrack
from mirage_jax.video.h264 import add_h264, yuv_frame
from mirage_jax.video.opening import open_source


class VideoWriter:
    """An mp4 file (H.264, yuv420p, BT.709, index in front) of constant rate.

    The file is written under a temporary name in the same folder. `close` ends and
    checks it and gives it its name; after an error or Ctrl-C `abort` removes it. As
    a context manager it does one or the other by itself.

    Args:
      path: final name; should end in .mp4.
      height: rows, even.
      width: columns, even.
      rate: frames a second.
      audio_source: a file whose first sound track is carried over.
      audio_start: seconds of that file's clock at which frame 0 is shown.
      quality: x264's constant rate factor; 18 looks like the original, 51 is worst.

    Attributes:
      frames: frames written so far.
      audio: what became of the sound: "none", "copied", "encoded as aac", ...

    Raises:
      MirageError: the folder cannot be written to, the disk is full.
      ValueError: odd sizes, or frames of another shape.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        height: int,
        width: int,
        rate: Fraction | int,
        audio_source: str | os.PathLike[str] | None = None,
        audio_start: float = 0.0,
        quality: int = 18,
    ):
        if height % 2 or width % 2 or min(height, width) < 2:
            raise ValueError(f"H.264 in yuv420p needs even sides: {height=} {width=}")
        self.frames = 0
        self._shape = (height, width, 3)
        self._rate = Fraction(rate)
        self._track: AudioTrack | None = None
        self._file = StagedFile(path)
        self._open = True
        self._finished = False
        try:
            with _mux_errors(self._file.path):
                self._container = av.open(
                    f"file:{self._file.temporary}",
                    "w",
                    format="mp4",
                    options={"movflags": "+faststart"},
                )
                x264 = {"crf": str(quality), "preset": "fast"}
                self._stream = add_h264(
                    self._container, height, width, self._rate, x264
                )
                if audio_source is not None:
                    self._track = _add_audio(audio_source, self._container, audio_start)
        except BaseException:
            self.abort()
            raise

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def audio(self) -> str:
        return self._track.how if self._track else "none"

    def write(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Appends one frame."""
        if image.shape != self._shape or image.dtype != np.uint8:
            raise ValueError(
                f"a frame must be uint8 {self._shape}, got {image.dtype} {image.shape}"
            )
        frame = yuv_frame(image)
        frame.pts = self.frames
        frame.time_base = 1 / self._rate
        with _mux_errors(self.path):
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
            if self._track is not None:
                self._track.advance(float(self.frames / self._rate))

    def finish(self) -> None:
        """Ends and checks the file, still under its temporary name."""
        if self._finished:
            return
        if not self.frames:
            raise MirageError(f"nothing to write to {self.path}: there was no frame")
        with _mux_errors(self.path):
            self._container.mux(self._stream.encode(None))
            if self._track is not None:
                self._track.advance(float(self.frames / self._rate))
                self._track.close()
            self._open = False
            self._container.close()
            # Buffered bytes meet a full disk only on closing, and not every such
            # error is reported: read the index back before trusting the file.
            with open_source(self._file.temporary) as written:
                found = written.streams.video[0].frames
        if found != self.frames:
            raise MirageError(
                f"cannot write {self.path}: {found} of {self.frames} frames arrived; "
                "free some space or choose another --config.out"
            )
        self._finished = True

    def close(self) -> None:
        """Finishes the file and gives it its final name."""
        self.finish()
        self._file.publish()

    def abort(self) -> None:
        """Removes what was written; an older file of that name stays."""
        self._file.discard()
        if self._track is not None:
            self._track.close()
        if self._open and hasattr(self, "_container"):
            self._open = False
            with contextlib.suppress(av.error.FFmpegError, OSError):
                self._container.close()
        self._file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.abort()


def _add_audio(
    source: str | os.PathLike[str],
    container: av.container.OutputContainer,
    start: float,
) -> AudioTrack | None:
    with open_source(source) as probe:
        tracks = probe.streams.audio
        if not tracks or tracks[0].codec_context is None:  # None: codec unknown
            return None
    return AudioTrack(source, container, start)


@contextlib.contextmanager
def _mux_errors(path: Path) -> Iterator[None]:
    """PyAV reports a full disk as OSError or, from its encoders, as ExternalError."""
    with write_errors(path):
        try:
            yield
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise MirageError(
                f"cannot write {path}: {error}; free some space or choose another "
                "--config.out"
            ) from error
