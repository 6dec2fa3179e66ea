"""Sweeps: the toy experiment over a grid and at random, resumed, failing, stopped."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

from configs import sweep_train, train_denoiser
from experiments import sweep
from experiments.sweep_axes import draws, parse_axes
from mirage_jax.results import read_record

ROOT = Path(__file__).parent.parent
TOY = ["--script=tests.toy_experiment", "--base=--out={folder}", "--metric=distance"]


@pytest.fixture(autouse=True)
def _in_the_root_without_gpus(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def swept(tmp_path, capsys):
    """Runs a sweep: (exit code or message, what it printed, its folder)."""

    def run(*argv):
        importlib.reload(sweep)  # other scripts have flags of the same names
        flags.FLAGS.mark_as_parsed()
        for word in (f"--out={tmp_path}", *argv):
            name, _, value = word.removeprefix("--").partition("=")
            flags.FLAGS[name].parse(value or "true")
        code: int | str | None = 0
        try:
            sweep.main(["sweep"])
        except SystemExit as left:
            code = left.code
        folders = [path for path in tmp_path.iterdir() if path.is_dir()]
        return code, capsys.readouterr().out, folders[0] if folders else None

    return run


def starts(folder):
    """How often each run was started, by the run's name."""
    return {
        path.parent.name: len(path.read_text().splitlines())
        for path in folder.glob("*/starts")
    }


def rows(folder):
    lines = (folder / "table.md").read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_grid_from_a_config_is_run_ranked_and_not_run_again(swept):
    code, _, folder = swept("--config=configs/sweep_test.py", "--workers=3")
    assert code == 0 and folder.name == "toy"
    head, _, *body = rows(folder)
    assert head[:4] == ["rate", "momentum", "distance, m", "loss"]
    assert len(body) == 6 and {row[-2] for row in body} == {"finished"}
    # Without momentum each step multiplies the distance by 1 - 2 * rate.
    plain = {row[0]: float(row[2]) for row in body if row[1] == "0"}
    for rate, distance in plain.items():
        assert distance == pytest.approx((1 - 2 * float(rate)) ** 8, rel=1e-3)
    distances = [float(row[2]) for row in body]
    assert distances == sorted(distances)

    record = read_record(folder / "results.json")
    assert {name.split("/")[1] for name in record.results} == set(starts(folder))
    assert len(record.results) == 18  # distance, loss and seconds of each
    for run in starts(folder):
        found = {name: record.results[f"{name}/{run}"] for name in ("distance", "loss")}
        assert found["loss"].value == pytest.approx(
            found["distance"].value ** 2,
            rel=2e-5,  # a file has six digits
        )
        assert (found["distance"].unit, found["loss"].better) == ("m", "lower")
    assert Image.open(folder / "plot.png").size[0] > 0

    again = swept("--config=configs/sweep_test.py", "--grid=--rate=0.1,0.2")
    assert again[0] == 0
    assert set(starts(folder).values()) == {1} and len(starts(folder)) == 8
    told = json.loads((next(folder.glob("rate_0.1-*")) / "run.json").read_text())
    assert told["command"].startswith("python -m tests.toy_experiment --out=")
    assert told["settings"]["--rate"] == "0.1" and told["outcome"]["exit_status"] == 0


def test_other_flags_for_all_runs_are_another_run(swept):
    axis = "--grid=--rate=0.1"
    _, _, folder = swept(*TOY, axis)
    swept(*TOY, axis, "--base=--steps=2")
    assert len(starts(folder)) == 2
    assert len(rows(folder)) == 3  # the table holds the runs of this sweep alone


def test_random_draws_lie_in_their_ranges_and_a_larger_count_adds(swept):
    axes = ["--grid=--rate=log:0.01..0.4", "--grid=--steps=1..8"]
    _, _, folder = swept(*TOY, *axes, "--random=3")
    first = set(starts(folder))
    assert len(first) == 3
    for rate, steps, *_ in rows(folder)[2:]:
        assert 0.01 <= float(rate) <= 0.4 and 1 <= int(steps) <= 8
    swept(*TOY, *axes, "--random=4")
    assert first < set(starts(folder)) and set(starts(folder).values()) == {1}


def test_a_failed_run_is_told_and_run_again_only_when_asked(swept):
    sweeps = [*TOY, "--grid=--broken=false,true"]
    code, said, folder = swept(*sweeps)
    assert code == 1
    assert "toy: the broken flag was given" in said
    assert [row[-2] for row in rows(folder)[2:]] == ["finished", "failed (1)"]
    assert len(read_record(folder / "results.json").results) == 2

    (folder / "cure").touch()
    assert swept(*sweeps)[0] == 1
    assert set(starts(folder).values()) == {1}
    assert swept(*sweeps, "--retry")[0] == 0
    assert sorted(starts(folder).values()) == [1, 2]


def test_an_unknown_flag_of_the_script_is_told_from_its_log(swept):
    code, said, folder = swept(*TOY, "--grid=--raet=0.1")
    assert code == 1 and "Unknown command line flag 'raet'" in said
    assert not (folder / "plot.png").exists()


def test_ctrl_c_lets_runs_save_and_the_next_sweep_goes_on(tmp_path):
    command = [sys.executable, "-m", "experiments.sweep", f"--out={tmp_path}"]
    command += [*TOY, "--grid=--wait=true,false"]
    sweeping = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*/waiting")) and time.monotonic() < deadline:
        time.sleep(0.05)
    sweeping.send_signal(signal.SIGINT)
    said, _ = sweeping.communicate(timeout=60)
    assert sweeping.returncode == 130, said
    [waited] = tmp_path.glob("*/wait_true-*")
    assert (waited / "saved").exists()
    outcome = json.loads((waited / "run.json").read_text())["outcome"]
    assert outcome["exit_status"] is None and outcome["seconds"] > 0
    assert not list(tmp_path.rglob(".*.part*")) and not list(waited.glob("toy.json"))
    assert "unfinished" in (waited.parent / "table.md").read_text()

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout
    assert starts(waited.parent)[waited.name] == 2
    assert json.loads((waited / "run.json").read_text())["outcome"]["exit_status"] == 0


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "nothing to compare runs by"),
        (["--metric=a"], "no script"),
        ([*TOY], "nothing to sweep"),
        ([*TOY, "--grid=--rate=1..2"], "how many runs by --random"),
        ([*TOY, "--grid=--rate=2..1", "--random=2"], "--rate=2..1 is no range"),
        ([*TOY, "--grid=--rate=1", "--random=-2"], "--random=-2"),
        ([*TOY, "--grid=--rate=1", "--workers=0"], "--workers=0"),
        ([*TOY, "--grid=--rate=1", "--name=a/b"], "--name=a/b"),
        ([*TOY[:1], "--metric=a", "--grid=--rate=1"], "no flag of --base has {folder}"),
        ([*TOY, "--grid=--rate=0.1", "--metric=losss"], "has loss, "),
        ([*TOY, "--grid=--rate=0.1", "--metric=loss"], "loss:lower or :higher"),
        (["--config=configs/render.py"], "no setting of a sweep"),
    ],
)
def test_what_the_user_can_cure_is_one_line(swept, argv, message):
    code, _, _ = swept(*argv)
    assert isinstance(code, str) and message in code and "\n" not in code


def test_a_damaged_record_is_named(swept):
    _, _, folder = swept(*TOY, "--grid=--rate=0.1")
    [record] = folder.glob("*/run.json")
    record.write_text("{")
    code, _, _ = swept(*TOY, "--grid=--rate=0.1")
    assert str(record) in code and "delete its folder" in code


def test_a_missing_comma_in_a_config_is_found(swept, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("def get_config():\n    return {'grid': ('--rate=0.1,0.2')}\n")
    code, _, _ = swept(f"--config={config}")
    assert "grid must be a tuple" in code


def test_the_training_sweep_varies_what_the_script_has():
    described, known = sweep_train.get_config(), train_denoiser.get_config()
    for text in (*described.base[1:], *described.grid):
        value = known
        for name in text.partition("=")[0].split(".")[1:]:
            value = value[name]
    assert (ROOT / described.script.replace(".", "/")).with_suffix(".py").exists()
    assert len(draws(parse_axes(described.grid), described.random, described.seed)) > 1
