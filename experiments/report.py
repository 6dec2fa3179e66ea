"""Writes the tables and figures of the technical report from the result files.

    python -m experiments.report
    python -m experiments.report --check

Run from the root of the repository. Every block of docs/report.md that stands between
`<!-- report-NAME:begin -->` and its end is written anew from docs/results, and its
figure into docs/pictures; a result file that is not there yet is named instead. --check
writes nothing and exits with 1 where page or figures are not those of the files.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags

from experiments import report_quality, report_speed
from experiments.command import command
from experiments.page_block import insert
from experiments.report_records import Part
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import write_whole

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; is all up to date?")
_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of result files.")
_PAGE = flags.DEFINE_string("page", "docs/report.md", "Page to bring up to date.")
_PICTURES = flags.DEFINE_string(
    "pictures", "docs/pictures", "Folder of the figures, beside the page."
)

PARTS: dict[str, Callable[[Path], Part]] = {
    part.__name__: part
    for part in (
        report_quality.quality,
        report_quality.memory,
        report_quality.clips,
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
    )
}


def render(page: str, results: Path, pictures: str) -> tuple[str, dict[str, str]]:
    """The page with all blocks written anew, and its figures by file name.

    Args:
      page: its text, with the markers of every block.
      results: folder of result files.
      pictures: where the page finds its figures.

    Raises:
      MirageError: a result file cannot be read, or the page lacks a block.
    """
    figures = {}
    for name, make in PARTS.items():
        part, text = make(results), ""
        if part.figure is not None:
            figures[f"report_{name}.svg"] = part.figure
            text = f"![{part.shows}]({pictures}/report_{name}.svg)\n\n"
        page = insert(page, f"report-{name}", text + part.text)
    return page, figures


def run() -> None:
    """Writes or checks what the flags ask for."""
    path, folder = Path(_PAGE.value), Path(_PICTURES.value)
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MirageError(f"cannot read --page={path}: {error.strerror}") from error
    page, figures = render(old, Path(_RESULTS.value), folder.name)
    wanted = {path: page} | {folder / name: text for name, text in figures.items()}
    gone = [p for p in sorted(folder.glob("report_*.svg")) if p not in wanted]
    if _CHECK.value:
        for stale in [*gone, *_stale(wanted)]:
            raise MirageError(
                f"{stale} is not that of {_RESULTS.value}; run: "
                "python -m experiments.report"
            )
    else:
        for each in gone:
            each.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        for each, text in wanted.items():
            write_whole(each, text.encode())
    print(f"{path}: {len(PARTS)} blocks, {len(figures)} figures")


def _stale(wanted: dict[Path, str]) -> Iterator[Path]:
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path


main = command("report", run)

if __name__ == "__main__":
    app.run(main)
