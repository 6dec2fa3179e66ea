"""The tables of quality say what the record says; test_report looks at the page."""

from pathlib import Path

import pytest

from experiments.page_block import insert, markers
from experiments.quality_table import tables
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, write_results

BLOCK = "quality-tables"
BEGIN, END = markers(BLOCK)

SETUP = {
    "device": "a device",
    "jax": "0.0.0",
    "weights_sha256": "0123456789abcdef0123",
    "styles": {"pencil": "procedural", "low_light": "memory"},
    "clips": ["bird:0", "bird:96", "street:0"],
    "clip_frames": 96,
    "wording": "held_out",
    "precision": "bfloat16",
    "commit_mode": "merged",
    "long_run": {"frames": 1056, "size": 64},
}
VALUES = {
    "psnr/pencil/64/1": 31.239,
    "psnr/low_light/64/1": 24.5,
    "psnr_source/pencil/64": 12.0,
    "memory_gain/pencil/64/1": -0.001,
    "memory_gain/low_light/64/1": 2.51,
    "psnr_mean/procedural/64/1": 31.239,
    "codec/psnr/64": 33.07,
    "psnr_first/pencil/1": 31.0,
    "drift_last_minus_first/pencil/1": -0.128,
    "check/a": 1.0,
    "check/b": 0.0,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = [Result(name, value, "dB") for name, value in VALUES.items()]
    write_results(tmp_path / "quality.json", "a script", SETUP, results)
    return tmp_path


def test_tables_show_what_was_measured_and_leave_the_rest_out(folder: Path) -> None:
    text = tables(folder).text
    assert "1 of 2 bars cleared" in text
    assert "3 clips of 96 frames from bird, street" in text
    assert "| style | kind | 1 step | source | memory gain |" in text
    assert "| --- | --- | ---: | ---: | ---: |" in text
    assert "| pencil | procedural | 31.24 | 12.00 | 0.00 |" in text
    assert "| low_light | memory | 24.50 |  | 2.51 |" in text
    assert "| 64 | codec alone | 33.07 |" in text
    assert "| pencil | 31.00 | -0.13 |" in text
    assert "- `b`" in text and "- `a`" not in text
    # Every row of a table has as many cells as its head.
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_only_what_is_between_the_markers_changes(folder: Path) -> None:
    page = f"# Title\n{BEGIN}\nold\n{END}\nlast line\n"
    once = insert(page, BLOCK, tables(folder).text)
    assert once.startswith(f"# Title\n{BEGIN}\n") and "\nold\n" not in once
    assert once.endswith(f"{END}\nlast line\n")
    assert insert(once, BLOCK, tables(folder).text) == once


@pytest.mark.parametrize(
    "page", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"]
)
def test_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(MirageError, match="quality-tables:begin"):
        insert(page, BLOCK, "text")


def test_other_records_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path / "quality.json", "a script", {}, [])
    with pytest.raises(MirageError, match=r"quality\.json is no record of quality"):
        tables(tmp_path)
