"""Turning a decoded frame the way its camera was held.

Phones store the sensor's picture and, beside it, the display matrix of ISO/IEC
14496-12: rows (a, b, u), (c, d, v), (x, y, w), which sends the point (p, q) to
(a p + c q + x, b p + d q + y). Only its sign pattern matters here: the eight ways
to lay a rectangle on itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """Transpose first, then flip up-down, then left-right."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "A B 3"]:
        """Returns the upright picture, a contiguous copy if anything changed."""
        if self == Orientation():
            return image
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)


def read_orientation(display_matrix: bytes | None) -> Orientation:
    """Reads the nine int32 of a display matrix; angles go to the nearest quarter.

    None, a matrix of the wrong length and the all-zero matrix mean upright.
    """
    if display_matrix is None or len(display_matrix) != 36:
        return Orientation()
    a, b, _, c, d = (int(v) for v in np.frombuffer(display_matrix, np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(flip_rows=d < 0, flip_columns=a < 0)
