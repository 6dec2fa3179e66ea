"""A picture of lines over one axis, each with its name beside it."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_SIZE = 960, 540
_LEFT, _TOP, _RIGHT, _BOTTOM = 90, 34, 330, 50  # margins; the names stand on the right
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 45), (225, 225, 230)
# Colours that people who see fewer tell apart too (Okabe and Ito, 2008), in all plots.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000")
_MOST_NAMED = 24
_LONGEST_NAME = 42
_TICKS = 5
_DOT = 4
_NOTHING = 1e-300  # what is smaller cannot be divided any more

Point = tuple[float, float]
Line = tuple[str, Sequence[Point]]


def draw_lines(lines: Sequence[Line], title: str, across: str) -> Image.Image:
    """Lines in the order of their names; one point is a dot.

    Args:
      lines: at least one, with at least one point each.
      title: what goes up.
      across: what goes to the right; its axis begins at 0 or below.
    """
    picture = Image.new("RGB", _SIZE, _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    every = [point for _, points in lines for point in points]
    right_axis = even_axis([0.0, *(x for x, _ in every)])
    up = even_axis([y for _, y in every])
    right, bottom = _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM

    def place(point: Point) -> Point:
        x = _LEFT + (right - _LEFT) * _share(point[0], right_axis)
        return x, bottom - (bottom - _TOP) * _share(point[1], up)

    for tick in right_axis:
        x, _ = place((tick, up[0]))
        draw.line((x, _TOP, x, bottom), _FAINT)
        draw.text((x, bottom + 6), f"{tick:g}", _INK, font=font, anchor="ma")
    for tick in up:
        _, y = place((right_axis[0], tick))
        draw.line((_LEFT, y, right, y), _FAINT)
        draw.text((_LEFT - 8, y), f"{tick:g}", _INK, font=font, anchor="rm")
    draw.text(((_LEFT + right) / 2, bottom + 26), across, _INK, font=font, anchor="ma")
    draw.text((_LEFT, 8), title, _INK, font=font)
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(point) for point in points]
        draw.line(placed, colour, 2)
        x, y = placed[-1]
        draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), colour)
        if number < _MOST_NAMED:
            line = _TOP + 20 * number
            draw.rectangle((right + 16, line + 3, right + 26, line + 13), colour)
            short = name[:_LONGEST_NAME]
            draw.text((right + 32, line), short, _INK, font=font)
    return picture


def even_axis(values: Sequence[float]) -> list[float]:
    """Round numbers, evenly spaced, that enclose all values."""
    low, high = min(values), max(values)
    if high - low < _NOTHING:
        half = (abs(low) if abs(low) > _NOTHING else 1) / 2
        low, high = low - half, high + half
    rough = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _share(value: float, axis: Sequence[float]) -> float:
    return (value - axis[0]) / (axis[-1] - axis[0])
