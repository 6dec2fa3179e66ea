"""The benchmark of the frame, end to end on the CPU with the smallest model."""

import importlib
import json
import shutil
from pathlib import Path

import jax
import pytest
import toy_model
from absl import flags
from absl.testing import flagsaver

from experiments import (
    benchmark,
    compare,
    frame_programs,
    leaderboard,
    named_model,
    roofline,
)
from experiments.pass_report import TOLERANCE
from mirage_jax.config import MODELS
from mirage_jax.cost_model import count_parameters
from mirage_jax.frame_cost import frame_parts
from mirage_jax.results import read_record, read_results
from mirage_jax.stream import stream_step
from mirage_jax.stream_config import StreamConfig

ROOT = Path(__file__).parent.parent
H100 = "NVIDIA H100 80GB HBM3"
TINY = {
    "interpret": True,
    "precisions": ["bfloat16"],
    "steps": ["1"],
    "parts": [],
    "frames": 6,
    "clip_frames": 3,
    "rounds": 3,
    "calls": 2,
    "batches": 3,
}


@pytest.fixture(autouse=True, scope="module")
def _weights():
    """Random ones that nothing has to be compiled for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_model, "random_params", lambda *_: toy_model.params())
        yield


def call(script, operands=(), **settings):
    importlib.reload(script)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**settings):
        script.main([script.__name__, *operands])


@pytest.fixture(scope="module")
def measured(tmp_path_factory, _weights):
    """The result file of a whole run, but for the processes that it starts."""
    out = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    parts = ["transfers", "stages", "streams"]
    settings = {"parts": parts, "commits": ["clean"], "streams": ["2"]}
    call(benchmark, out=str(out), **TINY | settings)
    return out


@pytest.mark.slow
def test_every_part_is_recorded_with_its_unit(measured):
    results = read_record(measured).results
    for name, unit, better in (
        ("frame_ms/bfloat16/1/p50", "ms", "lower"),
        ("frame_ms/bfloat16/1/jitter", "ms", "lower"),
        ("frame_ms/bfloat16/1/back_to_back", "ms", "lower"),
        ("missed/bfloat16/1/16_ms", "%", "lower"),
        ("host_latency_ms/bfloat16/1/plain/p50", "ms", "lower"),
        ("host_latency_ms/bfloat16/1/double_buffered/p99", "ms", "lower"),
        ("host_fps/bfloat16/1/double_buffered", "1/s", "higher"),
        ("stage_ms/bfloat16/1/dispatch/p50", "ms", "lower"),
        ("stage_ms/bfloat16/1/commit_clean/p50", "ms", "lower"),
        ("stage_ms_spread/bfloat16/1/pass/p50", "ms", "lower"),
        ("memory_gib/bfloat16/1/temporaries", "GiB", "lower"),
        ("compile_s/bfloat16/1/frame", "s", "lower"),
        ("floor_share/bfloat16/1/measured", "%", "higher"),
        ("flop_use/bfloat16/1/measured", "%", "higher"),
        ("fps/2", "1/s", "higher"),
        ("latency_ms/2/p50", "ms", "lower"),
        ("error/bfloat16/1/picture", "", "lower"),
        ("tokens", "", "lower"),
    ):
        assert (results[name].unit, results[name].better) == (unit, better), name
    values = read_results(measured)
    percentiles = [values[f"frame_ms/bfloat16/1/{p}"] for p in ("p50", "p95", "max")]
    assert percentiles == sorted(percentiles) and percentiles[0] > 0
    assert values["tokens"] == 4
    assert values["parameters/denoiser"] == count_parameters(MODELS["test"])
    assert 0 < values["error/bfloat16/1/latent"] < TOLERANCE[None]


@pytest.mark.slow
def test_stages_and_their_rest_are_the_frame(measured):
    values = read_results(measured)
    parts = frame_parts(MODELS["test"], StreamConfig(64, 64))
    # Every part that the cost model counts was timed.
    assert all(f"stage_ms/bfloat16/1/{part.name}/p50" in values for part in parts)
    dispatch = values["stage_ms/bfloat16/1/dispatch/p50"]
    together = values["frame_ms/bfloat16/1/back_to_back"]
    waited = values["frame_ms/bfloat16/1/p50"]
    assert together + dispatch == pytest.approx(waited, rel=1e-5)


@pytest.mark.slow
def test_the_setup_says_what_a_sceptic_asks(measured):
    setup = read_record(measured).setup
    assert setup["height"] == setup["width"] == 64 and setup["steps"] == 1
    assert setup["precision"] == "bfloat16" and setup["window"] == 3
    assert setup["weights_sha256"] is None and "timing only" in setup["weights"]
    assert (
        "big_buck_bunny" in setup["sources"][0] and "to and fro" in setup["sources"][0]
    )
    assert setup["last_backends"]["bfloat16/1/frame"]["frame_attention"] == "xla"
    assert "attention=None" in setup["rows"]["bfloat16/1"]
    assert setup["parts"] == ["transfers", "stages", "streams"]
    for key in ("device", "jax", "processor", "xla_flags", "chips", "warm_up"):
        assert key in setup, key


@pytest.fixture
def as_if_on_a_gpu(measured, tmp_path):
    """The file in a repository of its own, as a run on an H100 leaves it."""
    shutil.copytree(ROOT / "docs/leaderboard", tmp_path / "docs/leaderboard")
    shutil.rmtree(tmp_path / "docs/leaderboard/submissions", ignore_errors=True)
    record = json.loads(measured.read_text())
    record["setup"] |= {"device": H100, "commit": "a" * 40}
    path = tmp_path / "docs/results/benchmark_test_h100.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    return path


@pytest.mark.slow
def test_roofline_reads_the_file(as_if_on_a_gpu, tmp_path):
    values = read_results(as_if_on_a_gpu)
    out = str(tmp_path / "roofline.json")
    settings = {"model": "test", "chip": "h100", "tokens": 4, "out": out}
    call(roofline, measured=str(as_if_on_a_gpu), **settings)
    found = read_results(out)
    for part in ("encode", "pass", "decode"):
        time = values[f"stage_ms/bfloat16/1/{part}/p50"]
        if time > 0:
            assert found[f"measured_ms/h100/{part}"] == time


@pytest.mark.slow
def test_compare_finds_no_change_in_the_same_file(measured, tmp_path):
    out = str(tmp_path / "comparison.json")
    call(compare, [str(measured)] * 2, out=out)
    found = read_results(out)
    assert found["regressed"] == found["missing"] == found["improved"] == 0
    assert found["change/frame_ms/bfloat16/1/p50"] == 0


@pytest.mark.slow
def test_the_leaderboard_takes_the_file(as_if_on_a_gpu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = as_if_on_a_gpu.relative_to(tmp_path)
    call(leaderboard, add=str(path), who="a test", streams=2)
    [path] = Path("docs/leaderboard/submissions").iterdir()
    submission = json.loads(path.read_text())
    values = read_results(as_if_on_a_gpu)
    for name in ("frame_ms/bfloat16/1/p50", "frame_ms/bfloat16/1/p99", "fps/2"):
        assert submission["speed"]["values"][name] == values[name]


@pytest.mark.slow
def test_a_wrong_program_gets_no_times(tmp_path, monkeypatch, capsys):
    def wrong(model, stream):
        def step(params, state, source):
            state, picture = stream_step(
                params, state, source, model=model, stream=stream
            )
            return state, 255 - picture

        return jax.jit(step, donate_argnums=1)

    monkeypatch.setattr(frame_programs, "make_step", wrong)
    out = tmp_path / "benchmark.json"
    with pytest.raises(SystemExit, match="wrong: bfloat16/1"):
        call(benchmark, out=str(out), **TINY | {"parts": ["stages", "streams"]})
    values = read_results(out)
    assert read_record(out).setup["parts"] == []  # two were asked for
    assert values["error/bfloat16/1/picture"] > 0.1
    assert not [
        name for name in values if name.startswith(("frame_ms", "stage", "fps"))
    ]
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"precisions": ["int4"]}, "precision 'int4' is unknown: choose one of"),
        ({"steps": ["one"]}, "--steps=one: write numbers"),
        ({"steps": ["3"]}, "steps=3: choose one of"),
        ({"streams": ["0"]}, "--streams=0: write numbers"),
        ({"parts": ["drift"]}, "--parts=drift: take of transfers, stages"),
        ({"commits": ["merged"]}, "--commits=merged: take of lagged, clean"),
        ({"tokens": 7}, "7 tokens are no square frame"),
        ({"config": "nowhere.py"}, "--config=nowhere.py is no config"),
        ({"interpret": False}, "no NVIDIA GPU here"),
    ],
)
def test_wrong_settings_are_named(settings, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        call(benchmark, out=str(tmp_path / "x.json"), **TINY | settings)
