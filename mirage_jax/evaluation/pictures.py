"""Grids of pictures for the eye: rows are styles, columns are what is compared."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from mirage_jax.staged_file import write_whole

_GAP = 4
_HEAD = 20
_LABEL = 96
_PAPER = (18, 18, 20)
_INK = (205, 205, 210)
_FIRST_QUALITY, _LAST_QUALITY = 90, 30


def difference(
    first: UInt8[np.ndarray, "H W 3"], second: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """|first - second|, channel by channel."""
    return np.abs(first.astype(np.int16) - second.astype(np.int16)).astype(np.uint8)


def draw_grid(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "H W 3"]]]],
    cell: int = 256,
) -> Image.Image:
    """A grid with a name over every column and beside every row.

    Args:
      columns: names of the columns.
      rows: name and pictures of every row, as many as columns, of any size.
      cell: side of a picture in the grid, in pixels.

    Raises:
      ValueError: no row, or a row with another number of pictures.
    """
    if not rows or any(len(pictures) != len(columns) for _, pictures in rows):
        counts = [len(pictures) for _, pictures in rows]
        raise ValueError(f"rows with {counts} pictures do not fill {len(columns)=}")
    step = cell + _GAP
    size = _LABEL + len(columns) * step, _HEAD + len(rows) * step
    grid = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(13)
    for place, name in enumerate(columns):
        draw.text((_LABEL + place * step + 2, 2), name, _INK, font=font)
    for line, (name, pictures) in enumerate(rows):
        top = _HEAD + line * step
        draw.text((4, top + 4), name.replace("_", "\n"), _INK, font=font)
        for place, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize(
                (cell, cell), Image.Resampling.LANCZOS
            )
            grid.paste(image, (_LABEL + place * step, top))
    return grid


def save_picture(path: Path, image: Image.Image, limit: int = 400_000) -> None:
    """Writes a PNG, or a WebP of at most `limit` bytes, by the ending of the path.

    Raises:
      ValueError: another ending, or a WebP that does not get small enough.
      MirageError: the file cannot be written.
    """
    if path.suffix == ".png":
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        write_whole(path, buffer.getvalue())
        return
    if path.suffix != ".webp":
        raise ValueError(f"a picture ends in .png or .webp: {path}")
    for quality in range(_FIRST_QUALITY, _LAST_QUALITY - 1, -6):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= limit:
            write_whole(path, buffer.getvalue())
            return
    raise ValueError(f"{path}: {image.size} is too large for {limit} bytes")
