"""The roofline script: tables, result files, shares, projections, refusals."""

import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import absent_card, roofline
from experiments.call_timing import Calls
from experiments.pass_report import Measured, to_results
from experiments.program_memory import Memory
from mirage_jax.chips import CHIPS
from mirage_jax.config import MODELS
from mirage_jax.cost_model import floor_seconds, pass_stages
from mirage_jax.frame_cost import frame_floor_ms, frame_parts
from mirage_jax.results import Result, read_results, write_results
from mirage_jax.stream_config import StreamConfig

ROOT = Path(__file__).parent.parent
H100 = "NVIDIA H100 80GB HBM3"
written = functools.partial(pytest.approx, rel=1e-5)  # six digits of a number


def run(out, **settings):
    importlib.reload(roofline)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(out=str(out), **{"model": "test", "tokens": 4} | settings):
        roofline.main(["roofline"])
    return read_results(out)


def pass_floor(chip, tokens_side, **changes):
    stages = pass_stages(
        MODELS["test"], StreamConfig(tokens_side, tokens_side, **changes)
    )
    return 1e3 * floor_seconds(stages, CHIPS[chip])


def passes_file(path, share=0.5, device=H100, **setup):
    """What bench_pass writes: passes at a share of the floor's speed, and steps."""
    done = []
    # The fastest of all is wrong.
    for combination, slower, error in (
        ("xla", 2.0, 0.01),
        ("kernels", 1.0, 0.01),
        ("triton", 0.1, 0.5),
    ):
        for tokens, side in ((4, 64), (16, 128)):
            ms = slower * pass_floor("h100", side) / share
            passes = Calls(9.0, 9.0, 9.0, 9.0, 9.0)
            steps = Calls(ms + 0.75, 9.0, 9.0, 9.0, ms + 0.5)
            done.append(
                Measured(combination, tokens, None, 1.0, error, ms, passes, steps)
            )
    setup = {"device": device, "model": "test"} | setup
    write_results(path, "a test", setup, to_results(done, 1))
    return str(path)


def test_floors_are_written_and_printed(tmp_path, capsys):
    out = tmp_path / "roofline.json"
    found = run(out, chip="rtx3090", steps=2, streams=3, precision="int8")
    stream = StreamConfig(64, 64, steps=2, batch=3, eight_bit="int8")
    parts = frame_parts(MODELS["test"], stream)
    total = frame_floor_ms(parts, CHIPS["rtx3090"])
    assert found["floor_ms/rtx3090/frame"] == written(total)
    one = {part.name: part for part in parts}["pass"]
    assert found["floor_ms/rtx3090/pass"] == written(one.floor_ms(CHIPS["rtx3090"]))
    below = [v for k, v in found.items() if k.startswith("floor_ms/rtx3090/pass/")]
    assert sum(below) == written(found["floor_ms/rtx3090/pass"])
    setup = json.loads(out.read_text())["setup"]
    assert setup["commit_mode"] == "merged" and setup["date"] and "command" in setup
    assert setup["bound"]["pass/commit"] == "memory"
    assert setup["chip"]["sources"] and setup["precision"] == "int8"
    printed = capsys.readouterr().out
    assert "pass (of 2)" in printed and "projection" not in printed


def test_on_its_own_chip_a_measurement_gives_shares_and_no_projection(tmp_path, capsys):
    source = passes_file(tmp_path / "pass.json")
    found = run(tmp_path / "roofline.json", chip="h100", measured=source)
    assert found["share_of_floor/h100/pass/4"] == written(0.5)
    assert found["measured_ms/h100/codec/4"] == written(0.5)
    assert found["measured_ms/h100/launch"] == written(0.25)
    assert not [name for name in found if name.startswith("projection")]
    printed = capsys.readouterr().out
    assert "50 % of the floor's speed" in printed and "kernels)" in printed


def test_for_another_chip_it_gives_a_projection_that_says_so(tmp_path, capsys):
    source = passes_file(tmp_path / "pass.json")
    found = run(tmp_path / "roofline.json", chip="rtx3090", measured=source)
    wanted = pass_floor("rtx3090", 64) / 0.5
    assert found["projection_ms/rtx3090/pass"] == written(wanted)
    parts = ("encode", "pass", "decode", "launch")
    together = sum(found[f"projection_ms/rtx3090/{part}"] for part in parts)
    assert found["projection_ms/rtx3090/frame"] == written(together)
    assert found["projection_ms/rtx3090/launch"] == written(0.25)
    assert not [name for name in found if name.startswith("measured_ms/rtx3090")]
    assert "projection for GeForce RTX 3090, not measured" in capsys.readouterr().out


def test_without_a_measured_codec_there_is_no_projection_of_the_frame(tmp_path):
    path = tmp_path / "pass.json"
    times = {"error/xla/4": 0.01, "pass_ms/xla/4/back_to_back": 1.0}
    setup = {"device": H100, "model": "test"}
    results = [Result(name, value, "ms", "lower") for name, value in times.items()]
    write_results(path, "a test", setup, results)
    found = run(tmp_path / "roofline.json", chip="rtx3090", measured=str(path))
    projected = {name for name in found if name.startswith("projection")}
    assert projected == {"projection_ms/rtx3090/pass"}


def test_a_benchmark_of_the_frame_is_read_part_by_part(tmp_path):
    path = tmp_path / "benchmark.json"
    times = {"frame": 5.0, "encode": 1.0, "pass": 1.25, "decode": 0.5}
    results = [
        Result(
            "frame_ms/bfloat16/2/p50" if part == "frame" else f"stage_ms/{row}/p50",
            value,
            "ms",
            "lower",
        )
        for part, value in times.items()
        for row in [f"bfloat16/2/{part}"]
    ]
    write_results(path, "a test", {"device": H100, "model": "test"}, results)
    out = tmp_path / "roofline.json"
    found = run(out, chip="h100", measured=str(path), steps=2)
    assert found["measured_ms/h100/pass"] == 1.25
    assert found["measured_ms/h100/launch"] == written(5 - 1 - 2 * 1.25 - 0.5)
    assert found["share_of_floor/h100/pass"] == written(pass_floor("h100", 64) / 1.25)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"chip": "rtx9000"}, "no chip 'rtx9000': take one of rtx3090"),
        ({"model": "huge"}, "no model size 'huge'"),
        ({"tokens": 7}, "7 tokens are no square frame"),
        ({"steps": 3}, "steps=3: choose one of"),
        ({"precision": "int4"}, "--precision=int4: take one of bfloat16, int8, float8"),
        ({"precision": "float8"}, "no matrix units for float8_e4m3fn"),
        ({"measured": "nowhere.json"}, "cannot read results from nowhere.json"),
        ({"chip": "rtx4090", "compile": True}, "--compile knows no 'rtx4090'"),
    ],
)
def test_what_cannot_be_is_one_clear_line(tmp_path, settings, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path / "roofline.json", **{"chip": "rtx3090"} | settings)
    assert not (tmp_path / "roofline.json").exists()


@pytest.mark.parametrize(
    "setup, settings, message",
    [
        ({"model": "default"}, {}, "about 'default': give --model=default"),
        ({"device": "cpu"}, {}, "no chip 'cpu'"),
        ({}, {"precision": "int8"}, "no times in int8"),
    ],
)
def test_a_measurement_of_something_else_is_refused(tmp_path, setup, settings, message):
    source = passes_file(tmp_path / "pass.json", **setup)
    with pytest.raises(SystemExit, match=message):
        run(tmp_path / "roofline.json", chip="h100", measured=source, **settings)


def test_a_step_that_needs_more_memory_than_the_chip_has_fails(tmp_path, monkeypatch):
    gib = 2**30
    for temporaries, fails in ((20 * gib, False), (23 * gib, True)):
        memory = Memory(gib, temporaries, 1)
        monkeypatch.setattr(absent_card, "target_of", lambda name: name)
        monkeypatch.setattr(absent_card, "compile_step", lambda *_, m=memory: m)
        out = tmp_path / f"{fails}.json"
        if fails:
            with pytest.raises(SystemExit):
                run(out, chip="rtx3090", compile=True)
        else:
            run(out, chip="rtx3090", compile=True)
        found = read_results(out)
        assert found["memory_gib/rtx3090/temporaries"] == temporaries / gib
        assert found["memory_gib/rtx3090/total"] == written(memory.total / gib)


def test_it_starts_by_its_path_as_well(tmp_path):
    """From a folder that no PYTHONPATH names; docs/roofline.md has the other way."""
    out = tmp_path / "roofline.json"
    command = [sys.executable, "experiments/roofline.py"]
    command += ["--config", "configs/lsd_880m.py", "--chip", "rtx3090", f"--out={out}"]
    subprocess.run(
        command,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        check=True,
        capture_output=True,
    )
    assert read_results(out)["floor_ms/rtx3090/frame"] > 0
