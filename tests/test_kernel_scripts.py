"""The kernels' benchmark, end to end on the CPU with tiny shapes."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from an_h100 import no_tables  # noqa: F401

from experiments import bench_kernels, kernel_bars, kernel_cases
from experiments import frame_attention_rivals as rivals
from mirage_jax.results import read_results
from pallas_kernels import timing, tuned_table
from pallas_kernels.device import Device
from pallas_kernels.frame_attention import triton
from pallas_kernels.frame_attention.config import Config
from pallas_kernels.frame_attention.problem import Problem
from pallas_kernels.frame_attention.specs import SMALL, SPECS
from pallas_kernels.modulated_norm import triton as norms

TINY = {"calls": 1, "repeats": 1, "sets": 2, "interpret": True}


@pytest.fixture
def run():
    """Runs a script's main with settings for its flags; they share some names."""

    def run(script, **settings):
        importlib.reload(script)
        flags.FLAGS.mark_as_parsed()
        with flagsaver.flagsaver(**settings):
            script.main([script.__name__])

    return run


def test_the_benchmark_checks_times_and_records(run, tmp_path, capsys):
    out = tmp_path / "kernels.json"
    run(bench_kernels, cases=["plain"], out=str(out), **TINY)
    results = read_results(out)
    for rival in ("triton", "triton_layer", "xla"):
        path = f"frame_attention/plain/{rival}"
        assert results[f"us/{path}"] > 0
        assert results[f"error/{path}"] < 1e-5
        share = 100 * results["us/frame_attention/plain/floor"] / results[f"us/{path}"]
        np.testing.assert_allclose(
            results[f"percent_of_floor/{path}"], share, rtol=2e-5
        )
    assert "us/frame_attention/plain/cudnn" not in results
    setup = json.loads(out.read_text())["setup"]
    assert Config(**setup["cases"]["plain"]["configs"]["triton"])
    assert setup["copy_bytes_per_s"] > 0 and setup["matmul_flops_per_s"] > 0
    printed = capsys.readouterr().out
    assert "cudnn_no_bias" in printed and "triton takes" in printed


def test_a_wrong_kernel_fails_the_benchmark(run, tmp_path, monkeypatch):
    attend = triton.attend
    monkeypatch.setattr(triton, "attend", lambda *x, **kw: 1.1 * attend(*x, **kw))
    settings = TINY | {"cases": ["plain"], "rivals": ["triton"]}
    with pytest.raises(SystemExit, match="wrong: plain/triton"):
        run(bench_kernels, out=str(tmp_path / "kernels.json"), **settings)


def test_a_kernel_that_does_not_run_fails_the_benchmark(run, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("does not fit")

    monkeypatch.setattr(triton, "attend", broken)
    settings = TINY | {"cases": ["plain"], "rivals": ["triton", "xla"]}
    out = tmp_path / "kernels.json"
    with pytest.raises(SystemExit, match="wrong: plain/triton"):
        run(bench_kernels, out=str(out), **settings)
    assert "us/frame_attention/plain/xla" in read_results(out)


def test_the_row_kernels_are_checked_timed_and_recorded(run, tmp_path, capsys):
    out = tmp_path / "rows.json"
    names = ["norm_tiny", "commit_tiny"]
    run(bench_kernels, cases=names, out=str(out), **TINY)
    results = read_results(out)
    for path in ("modulated_norm/norm_tiny", "qk_norm_rope_commit/commit_tiny"):
        for rival in ("triton", "xla"):
            assert results[f"us/{path}/{rival}"] > 0
            assert results[f"error/{path}/{rival}"] < 1e-2
        assert results[f"us/{path}/floor"] > 0
    assert "commit_tiny: floor" in capsys.readouterr().out


def test_a_wrong_row_kernel_fails_its_benchmark(run, tmp_path, monkeypatch):
    norm = norms.gated_residual_norm

    def half(*operands, **named):
        return jax.tree.map(lambda x: x / 2, norm(*operands, **named))

    monkeypatch.setattr(norms, "gated_residual_norm", half)
    out = str(tmp_path / "rows.json")
    with pytest.raises(SystemExit, match="wrong: norm_tiny/triton"):
        run(bench_kernels, cases=["norm_tiny"], out=out, **TINY)


def test_the_8_bit_layers_stand_beside_half_precision():
    case = kernel_cases.cases(True, 2)["mlp_tiny"]()
    rival = case.rivals["triton_int8"]
    wanted = rival.wanted
    found = jax.jit(rival.step)(case.carry, rival.sets[0])
    assert timing.relative_error(found, wanted) < case.tolerance
    # The branch alone: what the residual hides.
    branch = np.asarray(wanted, np.float32) - np.asarray(case.carry, np.float32)
    error = np.asarray(found, np.float32) - np.asarray(wanted, np.float32)
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(branch)


def test_unknown_cases_are_named(run):
    with pytest.raises(SystemExit, match="no case 'nothing'.*norm_tiny"):
        run(bench_kernels, cases=["nothing"], **TINY)
    with pytest.raises(SystemExit, match="no NVIDIA GPU here; --interpret"):
        run(bench_kernels, cases=["norm_256"])


def test_bars_are_judged_by_the_fastest_of_each_side():
    bars = (
        kernel_bars.Bar("op", "case", ("triton", "mosaic"), ("xla", "cudnn"), 0.5),
        kernel_bars.Bar("op", "case", ("mosaic",), (), 4.0),
        kernel_bars.Bar("op", "other", ("triton",), ("xla",), 1.0),
    )
    times = {"op/case/triton": 9.0, "op/case/mosaic": 5.0, "op/case/xla": 20.0}
    times["op/case/cudnn"] = 10.0
    printed, results = kernel_bars.judge(bars, times)
    assert [(result.name, result.value) for result in results] == [
        ("bar/op/case/xla_or_cudnn", 0.5),
        ("bar/op/case/us", 5.0),
    ]
    assert "0.50, at most 0.5: met" in printed and "5.00, at most 4: MISSED" in printed


def test_every_bar_names_a_case_and_rivals_that_exist():
    assert {bar.case for bar in kernel_bars.BARS} <= kernel_cases.cases(False, 2).keys()
    contests = kernel_cases.contests(False, 2)
    for bar in kernel_bars.BARS:
        if bar.case in contests:
            contest = contests[bar.case]
            assert bar.op == contest.op.name
            marks = rivals.marks(SPECS[bar.case]) if bar.case in SPECS else {}
            assert {*bar.ours, *bar.rivals} <= {*contest.backends, *marks}


def test_without_a_gpu_the_benchmark_says_what_to_do(run):
    with pytest.raises(SystemExit, match="no NVIDIA GPU here; --interpret"):
        run(bench_kernels, cases=["plain"])


def test_rows_of_other_problems_stay(tmp_path):
    path, card = tmp_path / "own" / "t.json", Device("NVIDIA X", (9, 0), 3)

    def row(batch, time):
        problem = dataclasses.asdict(Problem(batch, 1, 16, 2, 16, 0, 1, 16))
        config = dataclasses.asdict(Config(16, 16, 1, 4, 2))
        return {
            "problem": problem,
            "configs": {"triton": config},
            "microseconds": {"xla": time},
        }

    tuned_table.write(path, card, "op", [row(1, 1.0), row(2, 2.0)])
    tuned_table.write(path, card, "other", [row(1, 5.0)])
    tuned_table.write(path, card, "op", [row(2, 3.0)])
    table = json.loads(path.read_text())
    assert table["op"] == [row(1, 1.0), row(2, 3.0)] and len(table["other"]) == 1
    path.write_text("{")
    tuned_table.write(path, card, "op", [row(1, 1.0)])
    assert json.loads(path.read_text())["op"] == [row(1, 1.0)]
    assert list(path.parent.iterdir()) == [path]


def test_a_chain_feeds_each_call_with_the_one_before():
    x, sets = jnp.float32(1), [jnp.float32(2), jnp.float32(0.5), jnp.float32(1)]
    chain = timing.compile_chain(lambda x, y: x * y, x, sets, calls=18)
    first, last = chain.run(x, sets)
    assert chain.calls == 1 + 18 and first == 2 and last == 2
    timed = chain.time(x, sets, repeats=3)
    assert timed.first == 2 and timed.microseconds > 0 and timed.spread >= 0


def test_errors_are_relative_and_never_hide_what_is_no_number():
    a = jnp.array([3.0, 4.0])
    assert timing.relative_error(a, a) == 0
    np.testing.assert_allclose(timing.relative_error(1.1 * a, a), 0.1, rtol=1e-5)
    assert not timing.relative_error(a.at[0].set(jnp.nan), a) <= 1.0


@pytest.mark.parametrize("stacked", [False, True])
def test_every_set_of_operands_is_the_same_for_all_rivals(stacked):
    spec = SMALL["plain"]
    q, sets = rivals.make_sets(spec, stacked, most=3)
    _, plain = rivals.make_sets(spec, False, most=3)
    assert len(sets) == 3
    for (k, v, bias, layer), (wanted_k, wanted_v, wanted_bias, _) in zip(
        sets, plain, strict=True
    ):
        if stacked:
            k, v, bias = k[layer], v[layer], bias[layer]
        np.testing.assert_array_equal(k, wanted_k)
        np.testing.assert_array_equal(v, wanted_v)
        np.testing.assert_array_equal(bias, wanted_bias)
    found = rivals.expected(spec, q, sets[0], biased=True)
    wanted = rivals.expected(spec, q, plain[0], biased=True)
    np.testing.assert_array_equal(jax.device_get(found), wanted)
