"""The technical report says what the result files say, and draws what is there."""

import importlib
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import report as script
from experiments.dot_plot import Dot, draw_dots
from experiments.page_block import insert, markers
from mirage_jax.results import Result, write_results

ROOT = Path(__file__).parent.parent
RESULTS, PICTURES = ROOT / script.RESULTS, ROOT / script.PICTURES
A_MEASURE = re.compile(r"\d (?:dB|ms|us|µs|GiB|frames a second)\b")


def text_of(name: str) -> str:
    return (ROOT / script.PAGES[name].path).read_text(encoding="utf-8")


def empty(name: str) -> str:
    """A page that is nothing but its blocks."""
    return "\n".join(
        "\n".join(markers(f"{name}-{p}")) for p in script.PAGES[name].parts
    )


@pytest.fixture
def own_flags() -> None:
    """The script's own flags, whatever script was imported after it."""
    importlib.reload(script)
    flags.FLAGS.mark_as_parsed()


@pytest.mark.parametrize("name", script.PAGES)
def test_a_committed_page_is_that_of_the_committed_results(name: str) -> None:
    page, figures = script.render(name, text_of(name), RESULTS)
    told = "run: python -m experiments.report"
    assert page == text_of(name), told
    drawn = {
        path.name: path.read_text(encoding="utf-8")
        for path in PICTURES.glob(f"{name}_*.svg")
    }
    assert drawn == figures, told


def test_figures_are_small_and_shown() -> None:
    for path in PICTURES.glob("report_*.svg"):
        assert path.stat().st_size < 20_000
        assert f"](pictures/{path.name})" in text_of("report")
        ElementTree.parse(path)


@pytest.mark.parametrize("name", ["report", "results", "readme"])
def test_the_text_between_the_blocks_states_no_measured_number(name: str) -> None:
    page = text_of(name)
    for block in script.PAGES[name].parts:
        page = insert(page, f"{name}-{block}", "")
    assert not A_MEASURE.search(page)
    assert A_MEASURE.search("a pass takes 1.93 ms")


def test_what_is_not_measured_is_named_with_its_script(tmp_path: Path) -> None:
    page = ""
    for each in script.PAGES:
        text, figures = script.render(each, empty(each), tmp_path)
        assert not figures and "](pictures/" not in text
        page += text
    named = re.findall(r"no file yet; `python -m experiments\.([\w.]+)", page)
    assert {"drift", "heal", "benchmark", "peers.bench"} <= set(named)
    for name in named:
        assert (ROOT / "experiments" / f"{name.replace('.', '/')}.py").exists()


def put(folder: Path, name: str, setup: dict, values: dict[str, float]) -> None:
    setup = {"device": "a card", "jax": "0.0.0"} | setup
    results = [Result(path, value, "") for path, value in values.items()]
    write_results(folder / name, "experiments/drift.py", setup, results)


def test_files_that_come_later_fill_their_blocks(tmp_path: Path) -> None:
    slopes = {"psnr_slope_per_1000": 0.01, "psnr_slope_low": -0.07}
    slopes |= {"psnr_slope_high": 0.09, "drift_last_minus_first": -0.31}
    values = {f"{name}/sepia": value for name, value in slopes.items()}
    values |= {f"{name}/sepia/lagged/1": 2 * value for name, value in slopes.items()}
    values |= {"check/motion/sepia": 1, "check/motion/sepia/lagged/1": 0}
    values |= {"frames": 10_000, "free_frames/sepia/free/lagged/1": 17}
    values["check/free_frames/sepia/free/lagged/1"] = 0
    modes = ["merged/1", "lagged/1", "free/lagged/1"]
    styles = {"sepia": "procedural"}
    put(tmp_path, "drift.json", {"modes": modes, "styles": styles}, values)
    times = {"p50": 2.5, "back_to_back": 2.25}
    frame = {f"frame_ms/int8/2/{name}": value for name, value in times.items()}
    put(tmp_path, "benchmark_a_b.json", {}, frame | {"missed/int8/2/16_ms": 0})
    rival = {f"rival_ms/torch_dit/{name}": value for name, value in times.items()}
    put(tmp_path, "rivals_a_b.json", {}, rival | {"parameters/torch_dit": 1})
    trained = {"drift_last_minus_first/sepia": -0.8, "psnr_first/sepia": 30.0}
    trained |= {"drift_last_minus_first/oil": 0.2, "psnr_first/oil": 31.0}
    trained |= {"drift_last_minus_first/trails": 0.0, "psnr_first/trails": 30.5}
    # That of the effects which need memory counts.
    trained |= {"memory_gain/sepia": 9.0, "memory_gain/trails": 0.5}
    trained |= {"frames": 2000, "check/motion/sepia": 1, "check/flicker/sepia": 0}
    styles |= {"oil": "procedural", "trails": "memory"}
    put(
        tmp_path,
        "ablation_no_history.json",
        {"modes": ["lagged/1"], "styles": styles},
        trained,
    )
    few = {f"psnr_mean/procedural/{size}/2": 30.0 for size in (64, 128)}
    few |= {"psnr_mean/procedural/128/1": 29.0, "psnr_mean/procedural/128/4": 29.5}
    put(tmp_path, "few_step_shortcut.json", {"styles": styles}, few)
    speed = {"step_ms/2": 1500.4, "tokens_per_s/2": 6e4, "scaling/2": 0.5}
    speed |= {"memory_gib/2/planned": 9.0, "model_flop_use/2": 0.25}
    setup = {"model": "a", "remat": "full", "styles": 3, "draws": 2}
    put(tmp_path, "bench_train_a_b.json", setup, speed)
    put(tmp_path, "equal_minutes_a.json", {}, {"psnr_mean/neural/512/1": 21.0})
    log = [
        {"step": step, "elapsed_s": 6.0 * step, "loss": 1 / step, "tokens_per_s": 3.0}
        for step in (1, 5, 11, 20)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in log)
    (tmp_path / "train_denoiser_equal_minutes_a.jsonl").write_text(lines)
    page, figures = script.render("report", empty("report"), tmp_path)
    file = "[drift](results/drift.json)"
    for row in (
        f"| {file} | merged/1 | 10000 | 0.010 | -0.070 | 0.090 | -0.31 |  | 1 of 1 |",
        f"| {file} | lagged/1 | 10000 | 0.020 | -0.140 | 0.180 | -0.62 |  | 0 of 1 |",
        f"| {file} | free/lagged/1 |  |  |  |  |  | 17 | 0 of 1 |",
        "| a card | int8 2 | 2.50 | 2.25 |",
        "| torch_dit | 2.50 | 2.25 |",
        "1 of 3 bars cleared on a card, JAX 0.0.0; missed: free_frames, motion.",
        "| [no history](results/ablation_no_history.json) | lagged/1 | 30.50 | -0.20 | "
        "-0.80 (sepia) | 0.50 | 1 of 2 |",
        "| [shortcut](results/few_step_shortcut.json) | procedural "
        "| 29.00 | 30.00 | 29.50 |",
        "| [a](results/bench_train_a_b.json) | 2 a card | full | 6 | 1500 | 60000 "
        "| 25.0 | 50.0 | 9.0 |",
        "| [a](results/equal_minutes_a.json) "
        "| [20](results/train_denoiser_equal_minutes_a.jsonl) | 2.0 | 0.200 | 0.091 "
        "| 0.050 | 3 | 21.00 |",
    ):
        assert row in page
    drawn = {"ablations", "drift", "rivals", "scale"}
    assert figures.keys() == {f"report_{name}.svg" for name in drawn}
    assert "lagged/1" in figures["report_drift.svg"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of result files and empty pages."""
    shutil.copytree(RESULTS, tmp_path / script.RESULTS)
    for name, page in script.PAGES.items():
        (tmp_path / page.path).write_text(empty(name))
    return tmp_path


def test_stale_pages_fail_and_are_written(
    tree: Path, capsys: pytest.CaptureFixture, own_flags: None
) -> None:
    pictures = tree / script.PICTURES
    pictures.mkdir()
    (pictures / "report_gone.svg").touch()
    with flagsaver.flagsaver(root=str(tree)):
        with flagsaver.flagsaver(check=True), pytest.raises(SystemExit) as left:
            script.main(["report"])
        assert "run: python -m experiments.report" in str(left.value)
        script.main(["report"])
        assert not (pictures / "report_gone.svg").exists()
        with flagsaver.flagsaver(check=True):
            script.main(["report"])
        put(tree / script.RESULTS, "drift.json", {"modes": [], "styles": {}}, {})
        with flagsaver.flagsaver(check=True), pytest.raises(SystemExit) as left:
            script.main(["report"])
    assert "blocks" in capsys.readouterr().out


def test_a_page_without_a_block_is_refused(tree: Path, own_flags: None) -> None:
    readme = tree / "README.md"
    for page, message in (("# Mirage\n", "readme-quality:begin"), (None, "README.md")):
        readme.unlink() if page is None else readme.write_text(page)
        with flagsaver.flagsaver(root=str(tree)), pytest.raises(SystemExit) as left:
            script.main(["report"])
        assert message in str(left.value) and "\n" not in str(left.value)


def test_dots_lie_where_their_numbers_are() -> None:
    rows = [("a < b", {"x": Dot(0.0), "y": Dot(5.0, 0.0, 10.0)}), ("c", {"x": Dot(10)})]
    text = draw_dots(rows, "ms", "what & why")
    tree = ElementTree.fromstring(text)
    name = "{http://www.w3.org/2000/svg}"
    at = [float(c.get("cx", "nan")) for c in tree.iter(f"{name}circle")][2:]
    assert at[1] == pytest.approx((at[0] + at[2]) / 2, abs=0.1)
    [interval] = tree.iter(f"{name}path")
    assert interval.get("d", "").startswith(f"M{at[0]:.1f} ")
    assert interval.get("d", "").endswith(f"H{at[2]:.1f}")
    assert draw_dots(rows, "ms", "what & why") == text
