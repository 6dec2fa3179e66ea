"""The README's tables: what is measured, what is projected, and the difference."""

import json
import re
import shutil
from pathlib import Path

import pytest

from experiments import report_readme
from mirage_jax.results import Result, read_record, write_results

RESULTS = Path(__file__).parent.parent / "docs/results"
H100 = "NVIDIA H100 80GB HBM3"
FRAME, STAGE = "frame_ms/bfloat16/1/p50", "stage_ms/bfloat16/1"


def put(folder: Path, model: str, device: str, values: dict[str, float]) -> None:
    results = [Result(name, value, "ms", "lower") for name, value in values.items()]
    path = folder / f"benchmark_{model}_{device[7:11].lower()}.json"
    write_results(path, "a script", {"model": model, "device": device}, results)


def frame(times: float) -> dict[str, float]:
    stages = {"encode": 0.2, "pass": 0.5, "decode": 0.3}
    values = {f"{STAGE}/{name}/p50": times * ms for name, ms in stages.items()}
    return values | {FRAME: times * 1.25}


def rows(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells[2:]}


def test_what_was_not_measured_is_called_a_projection(tmp_path: Path) -> None:
    put(tmp_path, "default", H100, frame(1.0))
    found = rows(report_readme.hardware(tmp_path).text)
    assert found[H100][:2] == ["1.25", ""] and "measured" in found[H100][2]
    absent = {name: cells for name, cells in found.items() if name != H100}
    assert {"A100 SXM 80 GB", "GeForce RTX 3090"} == absent.keys()
    for default, large, how in absent.values():
        assert re.fullmatch(r"projection \d+\.\d, floor \d+\.\d\d", default)
        assert re.fullmatch(r"floor \d+\.\d\d", large)  # nobody measured that model
        assert "projected" in how and "measured" not in how


def test_a_projection_follows_its_measurement(tmp_path: Path) -> None:
    projected = []
    for times in (1.0, 2.0):
        put(tmp_path, "default", H100, frame(times))
        cell = rows(report_readme.hardware(tmp_path).text)["GeForce RTX 3090"][0]
        projected.append(float(cell.removeprefix("projection ").split(",")[0]))
    assert projected[1] == pytest.approx(2 * projected[0], abs=0.11)


def test_a_card_that_was_measured_is_not_projected(tmp_path: Path) -> None:
    put(tmp_path, "default", "NVIDIA GeForce RTX 3090", frame(10.0))
    found = rows(report_readme.hardware(tmp_path).text)
    assert found["NVIDIA GeForce RTX 3090"][0] == "12.50"
    assert "GeForce RTX 3090" not in found


def test_without_stages_there_is_no_projection(tmp_path: Path) -> None:
    put(tmp_path, "default", H100, {FRAME: 1.25})
    assert "projected" not in report_readme.hardware(tmp_path).text


def test_a_demo_says_what_it_ran_on(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "demo_cpu.json", tmp_path)
    told = json.loads((tmp_path / "demo_cpu.json").read_text())
    cells = rows(report_readme.hardware(tmp_path).text)["a CPU"]
    assert cells[0] == f"{told['frame_ms']['p50']:.0f}"
    assert "float32" in cells[-1] and "`make demo`" in cells[-1]
    assert "commit" not in cells[-1], "as the sentence above the table says"
    (tmp_path / "demo_cpu.json").write_text(json.dumps(told | {"commit": "lagged"}))
    cells = rows(report_readme.hardware(tmp_path).text)["a CPU"]
    assert cells[-1].endswith("float32, lagged commit")


def test_quality_names_the_worst_style_of_a_kind(tmp_path: Path) -> None:
    record = read_record(RESULTS / "quality.json")
    worst = "psnr/sepia/512/1"
    results = [
        Result(r.name, 1.0, r.unit) if r.name == worst else r
        for r in record.results.values()
    ]
    setup = {key: value for key, value in record.setup.items() if key != "commit"}
    write_results(tmp_path / "quality.json", record.script, setup, results)
    text = report_readme.quality(tmp_path).text
    [formulas] = [c for name, c in rows(text).items() if name.startswith("formulas")]
    assert formulas[3] == "1.0 (sepia)"
    checks = [r.value for r in results if r.name.startswith("check/")]
    assert f"{sum(checks):.0f} of {len(checks)} bars" in text


def test_drift_has_a_row_for_every_mode_and_its_worst_style(tmp_path: Path) -> None:
    record = read_record(RESULTS / "drift.json")
    name = "drift_last_minus_first/sepia"
    results = [
        Result(r.name, -7.0, r.unit) if r.name == name else r
        for r in record.results.values()
    ]
    modes = record.setup["modes"]
    write_results(tmp_path / "drift.json", record.script, record.setup, results)
    found = list(rows(report_readme.drift(tmp_path).text).values())
    # A free run has other measures.
    assert len(found) == sum(not mode.startswith("free") for mode in modes)
    assert found[0][2] == "-7.00 (sepia)" and "sepia" not in found[1][2]


def test_rows_of_speed_are_those_that_were_timed(tmp_path: Path) -> None:
    values = frame(1.0) | {"frame_ms/bfloat16/1/back_to_back": 1.0}
    put(tmp_path, "default", H100, values)
    assert len(rows(report_readme.speed(tmp_path).text)) == 1
