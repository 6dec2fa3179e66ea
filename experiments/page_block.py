"""Blocks of a page that a script writes: between `<!-- NAME:begin -->` and its end."""

from collections.abc import Sequence

from mirage_jax.errors import MirageError


def markers(name: str) -> tuple[str, str]:
    """The two lines that enclose a block."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def insert(page: str, name: str, text: str) -> str:
    """The page with `text` between the two markers of a name.

    Raises:
      MirageError: the page does not hold each marker once, in order.
    """
    first, last = markers(name)
    before, begin, rest = page.partition(first)
    old, end, after = rest.partition(last)
    if not (begin and end) or first in old + after or last in before + after:
        raise MirageError(f"the page needs one {first} and after it one {last}")
    return f"{before}{first}\n{text}\n{last}{after}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns that hold nothing; numbers stand on the right."""
    columns = [c for c in zip(head, *rows, strict=True) if any(c[1:])]
    ruled = [(c[0], _rule(c[1:]), *c[1:]) for c in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in zip(*ruled, strict=True))


def number(value: float | None, digits: int) -> str:
    """The number, "" where it was not measured; never a minus zero."""
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _rule(cells: Sequence[str]) -> str:
    numbers = all(cell.lstrip("-")[:1].isdecimal() for cell in cells if cell)
    return "---:" if numbers else "---"
