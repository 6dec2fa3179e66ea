"""The regression gate: what counts as a change, and what is no comparison at all."""

import importlib
import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import compare
from experiments.comparison import Limits, compare_records, sign_test_interval
from mirage_jax.errors import MirageError
from mirage_jax.results import Record, Result, read_results, write_results

SETUP = {"device": "a GPU", "jax": "0.0.0", "model": "test", "precision": "bfloat16"}
LIMITS = Limits(percent=2.0, quality_db=0.05)


def record(*results, **setup):
    return Record(
        "a script", SETUP | setup, {result.name: result for result in results}
    )


def us(value, name="us/op/shape/ours"):
    return Result(name, value, "us", "lower")


def verdict(base, new, limits=LIMITS):
    [change] = compare_records(base, new, limits).changes
    return change.verdict


def judge(before, after):
    return verdict([record(before)], [record(after)])


def test_the_better_direction_decides():
    assert judge(us(10.0), us(10.5)) == "regressed"
    assert judge(us(10.5), us(10.0)) == "improved"
    fps = [Result("fps/1", value, "1/s") for value in (100.0, 90.0)]
    assert judge(*fps) == "regressed" and judge(*fps[::-1]) == "improved"
    assert judge(us(10.0), us(10.1)) == "unchanged"


def test_counts_may_leave_zero_and_change_sign():
    copies = [Result("copies", value, "", "lower") for value in (0.0, 1.0)]
    exact = Limits(percent=0.0, quality_db=0.05)
    assert verdict([record(copies[0])], [record(copies[1])], exact) == "regressed"
    assert verdict([record(copies[1])], [record(copies[0])], exact) == "improved"
    assert verdict([record(copies[0])], [record(copies[0])], exact) == "unchanged"
    slope = [Result("slope", value, "1", "higher") for value in (-1.0, 1.0)]
    assert judge(*slope) == "improved" and judge(*slope[::-1]) == "regressed"


def test_a_change_inside_the_stated_spread_is_none():
    def measured(time):
        return [record(us(time), us(1.0, "us_spread/op/shape/ours"))]

    assert verdict(measured(10.0), measured(10.9)) == "unchanged"
    assert verdict(measured(10.0), measured(11.5)) == "regressed"
    assert verdict([record(us(10.0))], measured(10.9)) == "unchanged"  # either's

    def frames(p50):
        values = {"p50": p50, "p95": 1.2 * p50, "max": 3.0, "chained": p50}
        return [record(*(us(v, f"frame_ms/x/1/{k}") for k, v in values.items()))]

    changes = compare_records(frames(1.0), frames(1.1), LIMITS).changes
    found = {change.name.split("/")[-1]: change.verdict for change in changes}
    assert found["p50"] == found["p95"] == found["max"] == "unchanged"
    assert found["chained"] == "regressed"  # no percentile: its noise is another


@pytest.mark.parametrize(
    "unit, name, before, after, expected",
    [
        ("dB", "psnr/pencil/512/1", 30.0, 29.96, "unchanged"),
        ("dB", "psnr/pencil/512/1", 30.0, 29.9, "regressed"),
        ("dB", "psnr/pencil/512/1", 30.0, 30.1, "improved"),
        ("dB", "codec/psnr/512", 30.0, 29.9, "regressed"),
        ("dB", "memory_gain/pencil/512/1", 0.001, -0.001, "unchanged"),
        ("1", "ssim/pencil/512/1", 0.9500, 0.9496, "unchanged"),
        ("1", "ssim/pencil/512/1", 0.9500, 0.9490, "regressed"),
        ("1", "ssim/pencil/512/1", 1.0, 1.0, "unchanged"),
        ("passed", "check/ssim_over_source/pencil/512/1", 1.0, 0.0, "regressed"),
    ],
)
def test_quality_is_judged_in_decibels(unit, name, before, after, expected):
    assert judge(Result(name, before, unit), Result(name, after, unit)) == expected


def test_repeats_find_what_drift_of_the_machine_hides():
    # Runs differ by far more than the change, but the two of a pair alike.
    machine = np.random.default_rng(0).uniform(8, 16, 8)
    base = [record(us(time)) for time in machine]
    slower = [record(us(1.05 * time)) for time in machine]
    noise = np.random.default_rng(1).permutation(np.geomspace(0.9, 1 / 0.9, 8))
    noisy = [record(us(1.01 * t * n)) for t, n in zip(machine, noise, strict=True)]
    [change] = compare_records(base, slower, LIMITS).changes
    assert change.verdict == "regressed" and change.change == pytest.approx(-5)
    assert verdict(base, noisy) == "unchanged"


def test_a_loss_of_quality_does_not_hide_behind_noise():
    before = [record(Result("psnr/a", 30.0, "dB")) for _ in range(3)]
    after = [record(Result("psnr/a", v, "dB")) for v in (29.0, 29.9, 30.5)]
    assert verdict(before, after) == "regressed"


@pytest.mark.parametrize("count", [2, 5, 6, 9, 20])
def test_the_interval_covers_the_median_as_often_as_it_says(count):
    rng = np.random.default_rng(count)
    draws = rng.exponential(size=(4000, count))  # median ln 2, and far from normal
    ends = np.array([sign_test_interval(list(draw)) for draw in draws])
    stated = ends[0, 2]
    covered = (ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])
    assert covered.mean() == pytest.approx(stated, abs=0.03)
    assert (stated >= 0.95) == (count >= 6)


def test_missing_and_added_names_are_told():
    base, new = (
        [record(us(1.0, "a"), us(1.0, "b"))],
        [record(us(1.0, "b"), us(1.0, "c"))],
    )
    found = compare_records(base, new, LIMITS)
    assert found.missing == ("a",) and found.added == ("c",)
    assert [change.name for change in found.changes] == ["b"]
    assert not compare_records(base, new, LIMITS, ["b"]).missing


def test_what_cannot_be_compared_is_refused():
    one = record(us(1.0))
    with pytest.raises(MirageError, match="2 base and 1 new"):
        compare_records([one, one], [one], LIMITS)
    with pytest.raises(MirageError, match="begins with fps"):
        compare_records([one], [one], LIMITS, ["fps"])
    with pytest.raises(MirageError, match=r"not one thing: .*'ms'.*'us'"):
        other = record(Result("us/op/shape/ours", 1.0, "ms", "lower"))
        compare_records([one], [other], LIMITS)


@pytest.fixture
def files(tmp_path):
    def write(name, *results, **setup):
        path = str(tmp_path / f"{name}.json")
        write_results(path, "a script", SETUP | setup, results)
        return path

    return write


def run(*operands, **settings):
    importlib.reload(compare)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**settings):
        try:
            compare.main(["compare", *operands])
        except SystemExit as left:
            return left.code
    return 0


def test_the_script_tells_and_writes_what_got_worse(files, tmp_path, capsys):
    base = files("base", us(10.0, "a"), us(10.0, "b"), us(1.0, "c"))
    new = files("new", us(12.0, "a"), us(5.0, "b"), us(1.0, "c"))
    out = str(tmp_path / "out.json")
    assert run(base, new, out=out) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "regressed: 1" and "a: 10 -> 12 us, -20.00 %" in printed[1]
    assert printed[-2:] == ["missing: 0", "unchanged: 1; new: 0"]
    results = read_results(out)
    assert (results["regressed"], results["improved"], results["missing"]) == (1, 1, 0)
    assert results["change/a"] == pytest.approx(-20)
    assert json.loads(open(out).read())["setup"]["regressed"] == ["a"]
    assert run(base, base) == 0
    assert run(base, new, percent=25.0) == 0
    assert run(base, new, names=["c"]) == 0


def test_a_missing_name_fails(files, capsys):
    base, new = files("base", us(1.0, "a"), us(1.0, "b")), files("new", us(1.0, "a"))
    assert run(base, new) == 1 and "missing: 1\n  b" in capsys.readouterr().out
    assert run(new, base) == 0


def test_repeats_come_by_flags(files, tmp_path, capsys):
    base = [files(f"base{i}", us(10.0 + i, "a")) for i in range(6)]
    new = [files(f"new{i}", us(11.0 + i, "a")) for i in range(6)]
    out = str(tmp_path / "out.json")
    assert run(base=base, new=new, out=out) == 1
    assert "6 pairs: intervals of 96.9 %" in capsys.readouterr().out
    results = read_results(out)
    assert results["change_low/a"] < results["change/a"] < results["change_high/a"] < 0


@pytest.mark.parametrize("key", ["device", "jax", "model", "precision"])
def test_different_setups_are_refused(files, capsys, key):
    base, new = files("base", us(1.0)), files("new", us(1.0), **{key: "another"})
    assert run(base, new) == 2
    told = capsys.readouterr().err
    assert f"{key} is {SETUP[key]} or another" in told and told.count("\n") == 1
    assert run(base, new, allow_different_setup=True) == 0


def test_bad_arguments_are_refused_in_a_line(files, tmp_path, capsys):
    base = files("base", us(1.0))
    for operands, settings, told in (
        ([], {}, "two files, or --base and --new"),
        ([base, base], {"base": [base]}, "two files, or --base and --new"),
        ([], {"base": [base]}, "1 base and 0 new"),
        ([base, str(tmp_path / "none.json")], {}, "none.json"),
    ):
        assert run(*operands, **settings) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
