"""H.264 that every player shows in the colours that were meant.

Pictures become yuv420p by the matrix of BT.709, and the stream says so: who is not told
takes the matrix of standard definition for small pictures, and reds come out too dark.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

_BT709 = 1  # ISO/IEC 23091-2: matrix, primaries and transfer of HD video
_LIMITED_RANGE = 1


def add_h264(
    container: OutputContainer,
    height: int,
    width: int,
    rate: Fraction | int,
    options: dict[str, str],
) -> VideoStream:
    """A stream for the frames of `yuv_frame`.

    Args:
      container: open for writing, before its first packet.
      height, width: of the pictures, even.
      rate: frames a second that the stream tells.
      options: of x264.
    """
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.options = {**options}
    context = stream.codec_context
    context.colorspace = _BT709
    context.color_primaries = _BT709
    context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    return stream


def yuv_frame(image: UInt8[np.ndarray, "H W 3"]) -> VideoFrame:
    """An RGB picture as the stream takes it, still without a time."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
    )
