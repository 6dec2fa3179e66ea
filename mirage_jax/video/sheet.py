"""A contact sheet: the source above the styled frame, at evenly spaced times."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from mirage_jax.staged_file import staged
from mirage_jax.video.frame_size import fit_frame

_GAP = 6
_CAPTION = 22
_PAPER = (18, 18, 20)
_INK = (200, 200, 205)


class ContactSheet:
    """Collects pairs of frames from a run of unknown length.

    It keeps every `stride`-th pair; when twice the wanted number has gathered, it
    drops every second one and doubles the stride. So memory stays bounded, and the
    pairs stay evenly spaced from the first frame on.

    Args:
      columns: pairs on the sheet.
      cell: width of one picture on the sheet, in pixels.
    """

    def __init__(self, columns: int = 6, cell: int = 320):
        if columns < 1 or cell < 16:
            raise ValueError(f"the sheet needs columns and cells: {columns=} {cell=}")
        self._columns = columns
        self._cell = cell
        self._stride = 1
        self._seen = 0
        self._pairs: list[tuple[float, Image.Image, Image.Image]] = []

    def add(
        self,
        source: UInt8[np.ndarray, "H W 3"],
        styled: UInt8[np.ndarray, "H W 3"],
        time: float,
    ) -> None:
        """Offers the pair shown at `time` seconds; it may or may not be kept."""
        index, self._seen = self._seen, self._seen + 1
        if index % self._stride:
            return
        self._pairs.append((time, self._shrink(source), self._shrink(styled)))
        if len(self._pairs) > 2 * self._columns:
            self._pairs = self._pairs[::2]
            self._stride *= 2

    @property
    def kept(self) -> int:
        """Pairs in memory."""
        return len(self._pairs)

    def pairs(self) -> list[tuple[float, Image.Image, Image.Image]]:
        """(time, source, styled) of the columns, small pictures."""
        count = min(self._columns, len(self._pairs))
        picks = np.linspace(0, len(self._pairs) - 1, count).round().astype(int)
        return [self._pairs[pick] for pick in picks]

    def render(self) -> Image.Image:
        """Draws the sheet.

        Raises:
          ValueError: no pair was added.
        """
        pairs = self.pairs()
        if not pairs:
            raise ValueError("the contact sheet has no frame")
        count = len(pairs)
        width, height = pairs[0][1].size
        size = (
            count * (width + _GAP) + _GAP,
            2 * (height + _GAP) + _GAP + _CAPTION,
        )
        sheet = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(14)
        for column, (time, source, styled) in enumerate(pairs):
            left = _GAP + column * (width + _GAP)
            draw.text((left + 2, 4), f"{time:.1f} s", _INK, font=font)
            sheet.paste(source, (left, _CAPTION + _GAP))
            sheet.paste(styled, (left, _CAPTION + height + 2 * _GAP))
        return sheet

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sheet as PNG, whole or not at all."""
        with staged(path) as temporary:
            self.render().save(temporary, format="PNG", optimize=True)

    def _shrink(self, image: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
        height = max(1, round(image.shape[0] * self._cell / image.shape[1]))
        return Image.fromarray(fit_frame(image, height, self._cell))
