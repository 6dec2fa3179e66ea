"""The benchmark of a pass, end to end on the CPU with the smallest model."""

import importlib
import json

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import bench_pass, pass_programs
from experiments.call_timing import Calls
from experiments.pass_report import Goals, Measured, table, to_results
from experiments.random_model import random_params
from mirage_jax.config import MODELS
from mirage_jax.cost_model import count_parameters
from mirage_jax.errors import MirageError
from mirage_jax.results import read_results

TINY = {
    "interpret": True,
    "tokens": ["4"],
    "calls": 3,
    "passes": 2,
    "repeats": 1,
}


def run(out, **settings):
    importlib.reload(bench_pass)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(out=str(out), **TINY | settings):
        bench_pass.main(["bench_pass"])
    return read_results(out)


@pytest.mark.slow
def test_combinations_are_checked_timed_and_recorded(tmp_path, capsys):
    out = tmp_path / "pass.json"
    results = run(
        out,
        combinations=["xla", "xla+int8+linear=xla", "triton"],
        programs=["pass", "chain", "step"],
        profile_dir=str(tmp_path / "profile"),
    )
    for name in ("xla/4", "xla+int8+linear=xla/4"):
        for kind in ("p50", "p95", "p99", "max", "back_to_back", "chained"):
            assert results[f"pass_ms/{name}/{kind}"] > 0
        assert results[f"step_ms/{name}/p50"] > 0
        assert results[f"compile_s/{name}/chain"] > 0
    assert 0 < results["error/xla/4"] < results["error/xla+int8+linear=xla/4"] < 0.1
    assert results["floor_ms/int8/4"] > 0 and results["floor_ms/bfloat16/4"] > 0
    assert results["parameters"] == count_parameters(MODELS["test"])
    setup = json.loads(out.read_text())["setup"]
    assert "NotImplementedError" in setup["refused"]["triton/4"]
    assert "timing only" in setup["weights"]
    printed = capsys.readouterr().out
    for traced in ("xla/4/pass", "xla/4/step", "xla+int8+linear=xla/4/pass"):
        assert list((tmp_path / "profile" / traced).rglob("*.xplane.pb"))
    assert "profile: pass 0 to 19; open it with tensorboard --logdir=" in printed
    assert printed.index("xla, 4 tokens: error") < printed.index("pass, chained")


def test_a_wrong_pass_fails_the_benchmark(tmp_path, monkeypatch):
    whole = pass_programs.denoise_frame

    def wrong(*operands, dtype, **named):
        latents, cache = whole(*operands, dtype=dtype, **named)
        return (latents if dtype == jnp.float32 else 1.5 * latents), cache

    monkeypatch.setattr(pass_programs, "denoise_frame", wrong)
    with pytest.raises(SystemExit, match="wrong: xla/4"):
        run(tmp_path / "pass.json", combinations=["xla"], programs=["pass"])


def test_where_nothing_runs_the_benchmark_fails(tmp_path):
    with pytest.raises(SystemExit, match="no combination ran"):
        run(tmp_path / "pass.json", combinations=["triton"], programs=["pass"])


def test_names_of_combinations():
    plain = pass_programs.stream_of("xla", 512, True)
    assert (plain.attention, plain.kernels, plain.dtype) == ("cudnn", "xla", "bfloat16")
    assert pass_programs.stream_of("xla", 512, False).attention == "xla"
    ours = pass_programs.stream_of("triton+float8+attention=cudnn", 64, True)
    assert (ours.attention, ours.kernels, ours.linear) == ("cudnn", "triton", "triton")
    assert ours.eight_bit == "float8_e4m3fn" and ours.height == 64
    for wrong in ("cuda", "xla+int4", "xla+norms=triton", "xla+linear="):
        with pytest.raises(MirageError, match="cuda|int4|norms|linear"):
            pass_programs.stream_of(wrong, 512, True)


def test_tokens_to_frames():
    assert pass_programs.side_of(256, MODELS["lsd_880m"]) == 512
    assert pass_programs.side_of(1024, MODELS["lsd_880m"]) == 1024
    with pytest.raises(MirageError, match="200 tokens"):
        pass_programs.side_of(200, MODELS["lsd_880m"])


def test_random_weights_are_drawn_in_the_type_they_are_used_in():
    # With the benchmark's kind of key, so that its program is the one run here.
    key = jax.random.key(0, impl="unsafe_rbg")
    params = random_params(key, MODELS["test"], "bfloat16")
    block = params["denoiser"]["blocks"]
    assert block["up"]["kernel"].dtype == jnp.bfloat16
    assert block["q_scale"].dtype == jnp.float32
    # Unit gain: the rows that a layer makes are as large as those that it gets.
    gain = jnp.std(block["down"]["kernel"].astype(jnp.float32)) * 128**0.5
    assert 0.95 < gain < 1.05
    assert (params["codec"]["statistics"]["spread"] > 0.3).all()


CALLS = Calls(2.2, 2.3, 2.4, 2.5, 1.9)
ONE = Measured("kernels", 256, None, 0.75, 0.01, 1.8, CALLS)


def test_goals_are_for_the_device_and_say_what_calls_see():
    goals = Goals(256, 2.0, 1.5)
    assert not goals.missed(ONE)
    assert "met on the device, missed by calls that wait" in table(ONE, goals)
    assert goals.missed(Measured("kernels+int8", 256, "int8", 0.5, 0.03, 1.8, CALLS))
    assert goals.of(Measured("kernels", 1024, None, 0.75, 0.01, 1.8, CALLS)) is None
    assert "goal" not in table(ONE, Goals(1024, 2.0, 1.5))
    assert [r.value for r in to_results([ONE], 5) if r.name == "parameters"] == [5]
    assert Measured("xla", 4, None, 1.0, float("nan")).correct is False
