"""The result files that the technical report is made from."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mirage_jax.errors import MirageError
from mirage_jax.results import Record, read_record


@dataclasses.dataclass(frozen=True)
class Part:
    """What one block of the page shows.

    Attributes:
      text: Markdown.
      figure: the SVG beside it; None where there is nothing to draw.
      shows: what the figure shows, in words.
    """

    text: str
    figure: str | None = None
    shows: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """One result file.

    Attributes:
      path: where it lies.
      record: what it says.
    """

    path: Path
    record: Record

    @property
    def setup(self) -> Mapping[str, Any]:
        return self.record.setup

    @property
    def values(self) -> dict[str, float]:
        """Numbers by name."""
        return {name: result.value for name, result in self.record.results.items()}

    @property
    def link(self) -> str:
        """Markdown that leads to the file from a page in docs/."""
        return f"[{self.path.stem}](results/{self.path.name})"


def find(folder: Path, pattern: str) -> list[Found]:
    """The files of a pattern by name, perhaps none.

    Raises:
      MirageError: one cannot be read.
    """
    return [Found(path, read_record(path)) for path in sorted(folder.glob(pattern))]


def summaries(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What `make demo` wrote on some machines: these files have a form of their own."""
    for path in sorted(folder.glob("demo_*.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a training's log, one at least.

    Raises:
      MirageError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [dict(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise MirageError(f"cannot read the log {path}: {error}") from error
    if not rows:
        raise MirageError(f"cannot read the log {path}: it is empty")
    return rows


def absent(what: str, script: str) -> Part:
    """Says that a file is not there yet, and what would write it."""
    return Part(f"{what}: no file yet; `python -m experiments.{script}` writes it.")


def mean(values: list[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)


def machine(setup: Mapping[str, Any]) -> str:
    """Device and JAX of a record."""
    return f"{setup['device']}, JAX {setup['jax']}"


def commit_mode(setup: Mapping[str, Any]) -> str:
    """How the stream committed; older records have it where the code's commit is."""
    return str(setup.get("commit_mode") or setup["commit"])
