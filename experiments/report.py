"""Writes what the documents say in numbers, from the result files.

    python -m experiments.report
    python -m experiments.report --check

Run from the root of the repository. Blocks between `<!-- PAGE-NAME:begin -->` and its
end are written anew from docs/results, in the technical report, the page of quality,
the list of results and the README; figures of the report into docs/pictures. A result
file that is not there yet is named instead. --check writes nothing and exits with 1
where a page or a figure is not that of the files.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from absl import app, flags

from experiments import (
    quality_table,
    report_files,
    report_quality,
    report_readme,
    report_speed,
    report_training,
)
from experiments.command import command
from experiments.page_block import insert
from experiments.report_records import Part
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import write_whole

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; is all up to date?")
_ROOT = flags.DEFINE_string("root", ".", "Of the repository.")

RESULTS, PICTURES = "docs/results", "docs/pictures"


@dataclasses.dataclass(frozen=True)
class Page:
    """A document with blocks.

    Attributes:
      path: from the root of the repository.
      parts: its blocks by name, each made from the folder of result files.
    """

    path: str
    parts: Mapping[str, Callable[[Path], Part]]


def _parts(*makers: Callable[[Path], Part]) -> dict[str, Callable[[Path], Part]]:
    return {maker.__name__: maker for maker in makers}


# By the first word of their markers.
PAGES = {
    "report": Page(
        "docs/report.md",
        _parts(
            report_quality.quality,
            report_quality.memory,
            report_quality.clips,
            report_training.ablations,
            report_training.few_step,
            report_quality.looped,
            report_quality.drift,
            report_quality.trials,
            report_speed.kernels,
            report_speed.layers,
            report_speed.passes,
            report_speed.precision,
            report_speed.frames,
            report_speed.floors,
            report_speed.rivals,
            report_speed.live,
            report_training.steps,
            report_training.scale,
        ),
    ),
    "quality": Page("docs/quality.md", _parts(quality_table.tables)),
    "results": Page("docs/results.md", _parts(report_files.files)),
    "readme": Page(
        "README.md",
        _parts(
            report_readme.quality,
            report_readme.drift,
            report_readme.speed,
            report_readme.hardware,
        ),
    ),
}


def render(name: str, text: str, results: Path) -> tuple[str, dict[str, str]]:
    """A page with all blocks written anew, and its figures by file name.

    Args:
      name: one of `PAGES`.
      text: of the page, with the markers of every block.
      results: folder of result files.

    Raises:
      MirageError: a result file cannot be read, or the page lacks a block.
    """
    figures = {}
    for block, make in PAGES[name].parts.items():
        part, shown = make(results), ""
        if part.figure is not None:
            figures[f"{name}_{block}.svg"] = part.figure
            shown = f"![{part.shows}](pictures/{name}_{block}.svg)\n\n"
        text = insert(text, f"{name}-{block}", shown + part.text)
    return text, figures


def run() -> None:
    """Writes or checks what the flags ask for."""
    root = Path(_ROOT.value)
    results, pictures = root / RESULTS, root / PICTURES
    wanted = {}
    for name, page in PAGES.items():
        path = root / page.path
        try:
            old = path.read_text(encoding="utf-8")
        except OSError as error:
            raise MirageError(f"cannot read {path}: {error.strerror}") from error
        wanted[path], figures = render(name, old, results)
        wanted |= {pictures / file: text for file, text in figures.items()}
    gone = [p for p in sorted(pictures.glob("report_*.svg")) if p not in wanted]
    if _CHECK.value:
        for stale in [*gone, *_stale(wanted)]:
            raise MirageError(
                f"{stale} is not that of {results}; run: python -m experiments.report"
            )
    else:
        for each in gone:
            each.unlink()
        pictures.mkdir(parents=True, exist_ok=True)
        for each, text in wanted.items():
            write_whole(each, text.encode())
    blocks = sum(len(page.parts) for page in PAGES.values())
    figures_there = len(wanted) - len(PAGES)
    print(f"{len(PAGES)} pages with {blocks} blocks, {figures_there} figures")


def _stale(wanted: dict[Path, str]) -> Iterator[Path]:
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path


main = command("report", run)

if __name__ == "__main__":
    app.run(main)
