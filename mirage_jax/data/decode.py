"""Video files and pictures to uint8 arrays of one fixed size.

Colours and sizes are converted by swscale with its bit-exact flags and by Pillow, so
that the same file gives the same bytes on every machine. Nothing here needs JAX: the
processes that decode start fast.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mirage_jax.errors import reason_of

VIDEO_ENDINGS = (".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".gif")
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_SMALLEST = 64  # pixels; a shorter side is not worth enlarging
_WIDE = 1.25  # a picture this much longer than high gives two squares


class DecodeError(Exception):
    """A file that cannot be used; the message says why."""


def decode_clip(
    path: Path, size: tuple[int, int], first: int = 0, most: int = 0
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield a clip's frames, upright: scaled, then the centre cut out.

    Args:
      path: any file that FFmpeg reads.
      size: (height, width) of the frames; the clip is scaled to cover it.
      first: frames to leave out at the start.
      most: frames to yield at most; 0 for all.

    Raises:
      DecodeError: no video in the file, or it breaks off: after the frames before
        the damage.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DecodeError("no video in the file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = container.decode(stream)
            for frame in itertools.islice(frames, first, first + most or None):
                yield _fit(frame, size)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(reason_of(error)) from error


def probe(path: Path) -> tuple[int, int, int]:
    """Frames that the container claims (0 if it does not say), height and width.

    Raises:
      DecodeError: no video in the file.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DecodeError("no video in the file")
            stream = container.streams.video[0]
            return stream.frames, stream.height, stream.width
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(reason_of(error)) from error


def decode_picture(path: Path) -> Image.Image:
    """Read a picture, RGB and upright.

    Raises:
      DecodeError: unreadable, truncated or tiny.
    """
    try:
        with Image.open(path) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(reason_of(error)) from error
    _refuse_tiny(picture.height, picture.width)
    return picture


def cover(
    picture: Image.Image,
    size: tuple[int, int],
    centre: tuple[float, float] = (0.5, 0.5),
) -> UInt8[np.ndarray, "H W 3"]:
    """Scale a picture to cover (height, width) and cut the rest off."""
    fitted = ImageOps.fit(
        picture, (size[1], size[0]), Image.Resampling.LANCZOS, centering=centre
    )
    return np.asarray(fitted)


def squares(picture: Image.Image, side: int) -> UInt8[np.ndarray, "n S S 3"]:
    """The middle square of a picture, or the two end squares of a long one."""
    long = max(picture.size) >= _WIDE * min(picture.size)
    centres = [(0.0, 0.0), (1.0, 1.0)] if long else [(0.5, 0.5)]
    return np.stack([cover(picture, (side, side), centre) for centre in centres])


def _fit(frame: av.VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    height, width = size if turns % 2 == 0 else size[::-1]
    _refuse_tiny(frame.height, frame.width)
    scale = max(height / frame.height, width / frame.width)
    scaled_height = max(round(frame.height * scale), height)
    scaled_width = max(round(frame.width * scale), width)
    kernel = Interpolation.AREA if scale < 1 else Interpolation.BICUBIC
    image = frame.reformat(
        scaled_width,
        scaled_height,
        "rgb24",
        interpolation=kernel | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
    ).to_ndarray()
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return np.rot90(image[top : top + height, left : left + width], turns)


def _refuse_tiny(height: int, width: int) -> None:
    if min(height, width) < _SMALLEST:
        raise DecodeError(
            f"{width}x{height} pixels, need {_SMALLEST} or more on the shorter side"
        )
