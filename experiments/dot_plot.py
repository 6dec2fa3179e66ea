"""A small SVG of dots: a row for each name, a colour for each series."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

from experiments.line_plot import COLOURS, even_axis

_WIDTH, _ROW, _LEFT, _RIGHT, _BOTTOM = 720, 22, 190, 24, 34
_LETTER = 7  # pixels that a letter takes at most
_STYLE = (
    "text{font:12px sans-serif;fill:#28282d}.e{text-anchor:end}.m{text-anchor:middle}"
    "line{stroke:#dcdce1}"
)


@dataclasses.dataclass(frozen=True)
class Dot:
    """A number, and the ends of its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


Row = tuple[str, Mapping[str, Dot]]


def draw_dots(rows: Sequence[Row], across: str, told: str) -> str:
    """The text of an SVG file; the same numbers always give the same text.

    Args:
      rows: from above, each with its name and the dot of every series that it has; at
        least one dot in all.
      across: what goes to the right, with its unit; the axis encloses 0.
      told: what the picture shows, for those who cannot see it.
    """
    series = list(dict.fromkeys(name for _, dots in rows for name in dots))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(series)}
    ends = [
        end
        for _, dots in rows
        for dot in dots.values()
        for end in (dot.value, dot.low, dot.high)
        if end is not None
    ]
    axis = even_axis([0.0, *ends])
    legend, top = _legend(colours)
    height = top + _ROW * len(rows) + _BOTTOM
    bottom = height - _BOTTOM

    def place(value: float) -> str:
        share = (value - axis[0]) / (axis[-1] - axis[0])
        return f"{_LEFT + share * (_WIDTH - _LEFT - _RIGHT):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img"><title>{escape(told)}</title><style>{_STYLE}</style>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        *legend,
    ]
    for tick in axis:
        x = place(tick)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="m" x="{x}" y="{bottom + 14}">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="m" x="{middle:g}" y="{height - 5}">{escape(across)}</text>'
    )
    for number, (name, dots) in enumerate(rows):
        y = top + _ROW * number + _ROW // 2
        parts.append(
            f'<text class="e" x="{_LEFT - 8}" y="{y + 4}">{escape(name)}</text>'
        )
        parts += [_mark(dot, y, colours[of], place) for of, dot in dots.items()]
    return "\n".join([*parts, "</svg>\n"])


def _legend(colours: Mapping[str, str]) -> tuple[list[str], int]:
    """Names with their colours, and how far down they reach."""
    parts, x, y = [], 12, 16
    for name, colour in colours.items():
        width = 24 + _LETTER * len(name)
        if x + width > _WIDTH:
            x, y = 12, y + 18
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 9}" y="{y}">{escape(name)}</text>')
        x += width
    return parts, y + 14


def _mark(dot: Dot, y: int, colour: str, place: Callable[[float], str]) -> str:
    mark = f'<circle cx="{place(dot.value)}" cy="{y}" r="4" fill="{colour}"/>'
    if dot.low is None or dot.high is None:
        return mark
    return (
        f'<path d="M{place(dot.low)} {y}H{place(dot.high)}" stroke="{colour}"/>{mark}'
    )
