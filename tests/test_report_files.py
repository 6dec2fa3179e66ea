"""The list of results names every file, and says no more of it than the file does."""

import json
from pathlib import Path

import pytest

from experiments import report_files
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, write_results

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs/results").iterdir())
SCRIPT = "experiments/benchmark.py"
SETUP = {
    "device": "a card",
    "jax": "0.0.0",
    "python": "3.11.0",
    "date": "2026-01-02",
    "commit": f"{'a' * 40}-dirty",
    "command": "python -m experiments.benchmark --steps=1",
}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_the_committed_page_links_every_file(path: Path) -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert page.count(f"- [{path.name}](results/{path.name})") == 1


@pytest.mark.parametrize("script", report_files.KINDS)
def test_a_kind_is_that_of_a_script(script: str) -> None:
    assert (ROOT / script).exists()


def test_a_record_is_told_in_full(tmp_path: Path) -> None:
    values = {"frame_ms/bfloat16/1/p50": 1.26, "tokens": 256.0}
    results = [Result(name, value, "ms", "lower") for name, value in values.items()]
    write_results(tmp_path / "benchmark_a.json", SCRIPT, SETUP, results)
    text = report_files.files(tmp_path).text
    assert text.startswith("## Frame time\n\nThe frame benchmark: ")
    for told in (
        "[benchmark_a.json](results/benchmark_a.json)",
        "a card, JAX 0.0.0, Python 3.11.0, 2026-01-02, commit",
        "commit `aaaaaaaaaaaa` with edits  \n",
        "`python -m experiments.benchmark --steps=1`",
        "2 numbers: `frame_ms/bfloat16/1/p50` 1.26 ms",
    ):
        assert told in text
    assert "not recorded" not in text and "tokens" not in text


def test_what_a_file_does_not_say_is_named(tmp_path: Path) -> None:
    (tmp_path / "train_codec.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    # As records were once written: the stream's commit in the place of the code's.
    old = {"script": SCRIPT, "setup": {"commit": "merged"}, "results": []}
    (tmp_path / "old.json").write_text(json.dumps(old))
    text = report_files.files(tmp_path).text
    assert text.count("day, commit, command not recorded") == 2
    assert "merged" not in text and "`step` 2" in text


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", "[", "cannot read"),
        ("a.json", '{"script": "x", "setup": {}}', "no 'results'"),
        ("train_x.jsonl", "", "cannot read the log"),
        (
            "a.json",
            '{"script": "experiments/none.py", "setup": {}, "results": []}',
            "experiments/none.py, which is not there",
        ),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MirageError, match=message):
        report_files.files(tmp_path)
