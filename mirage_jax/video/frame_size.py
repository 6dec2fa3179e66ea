"""Fitting any picture into the size that the model works at.

A size is (height, width), as in array shapes. As text it is "512" (square) or
"288x512": height x width.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mirage_jax.config import SIDE_MULTIPLE
from mirage_jax.errors import MirageError

SMALLEST = 64
LARGEST = 4096
FITS = ("crop", "pad")


def parse_size(text: str | int) -> tuple[int, int]:
    """Reads "512" or "288x512" (height x width) and checks it.

    Raises:
      MirageError: not a size, or not one that the model takes.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX]\s*(\d{1,9})\s*)?", str(text))
    if match is None:
        raise MirageError(
            f"size {str(text)[:40]!r} is not a size: write 512, or height x width "
            "such as 288x512"
        )
    height = int(match[1])
    width = int(match[2]) if match[2] else height
    check_size(height, width)
    return height, width


def check_size(height: int, width: int) -> None:
    """Raises MirageError unless both sides are multiples of 32 from 64 to 4096."""
    for side in (height, width):
        if side % SIDE_MULTIPLE or not SMALLEST <= side <= LARGEST:
            nearest = SIDE_MULTIPLE * round(side / SIDE_MULTIPLE)
            nearest = min(max(nearest, SMALLEST), LARGEST)
            raise MirageError(
                f"size {height}x{width} does not fit the model: {side} is not a "
                f"multiple of {SIDE_MULTIPLE} from {SMALLEST} to {LARGEST}; "
                f"the nearest is {nearest}"
            )


def check_fit(fit: str) -> None:
    """Raises MirageError unless `fit` is one of FITS."""
    if fit not in FITS:
        raise MirageError(f"fit {fit!r} is unknown: choose one of {', '.join(FITS)}")


def fit_frame(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int, fit: str = "crop"
) -> UInt8[np.ndarray, "height width 3"]:
    """Scales a picture of any size to (height, width), keeping its proportions.

    Args:
      image: any size from 1x1.
      height: rows of the result.
      width: columns of the result.
      fit: "crop" fills the result and cuts what stands over, evenly on both sides;
        "pad" shows the whole picture between black bars.

    Returns:
      A contiguous uint8 picture; the input itself if it already fits.
    """
    check_fit(fit)
    rows, columns, _ = image.shape
    if (rows, columns) == (height, width):
        return np.ascontiguousarray(image)
    picture = Image.fromarray(image)
    if fit == "crop":
        scale = max(height / rows, width / columns)
        cut_rows, cut_columns = height / scale, width / scale
        top, left = (rows - cut_rows) / 2, (columns - cut_columns) / 2
        if scale == 1:  # whole pixels: cut without blurring by half a pixel
            top, left = int(top), int(left)
        right, bottom = min(left + cut_columns, columns), min(top + cut_rows, rows)
        box = (left, top, right, bottom)
        fitted = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(fitted)
    scale = min(height / rows, width / columns)
    inner = max(1, round(columns * scale)), max(1, round(rows * scale))
    canvas = Image.new("RGB", (width, height))
    corner = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas.paste(picture.resize(inner, Image.Resampling.BICUBIC), corner)
    return np.asarray(canvas)
