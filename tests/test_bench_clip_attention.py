"""The benchmark of a training clip's attention, end to end on the CPU."""

import importlib

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import bench_clip_attention
from mirage_jax.results import read_record

TINY = {
    "model": "test",
    "rows": 2,
    "size": 32,
    "frames": 6,
    "ways": ["2", "6"],
    "calls": 2,
}


def run(out, **settings):
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(out=str(out), **TINY | settings):
        bench_clip_attention.main(["bench_clip_attention"])
    return read_record(out)


@pytest.fixture(autouse=True)
def _own_flags():
    importlib.reload(bench_clip_attention)  # other scripts have flags of the same names


def test_ways_are_checked_and_timed(tmp_path, capsys):
    record = run(tmp_path / "clips.json")
    values = {name: result.value for name, result in record.results.items()}
    assert set(values) == {
        f"{name}/{size}"
        for name in ("error", "ms/forward", "ms/gradient")
        for size in (2, 6)
    }, "no data sheet gives a CPU's peak"
    assert all(values[f"error/{size}"] < 1e-3 for size in (2, 6))
    assert min(values[f"ms/gradient/{size}"] for size in (2, 6)) > 0
    assert "6: error 0.0000, forward" in capsys.readouterr().out


def test_a_wrong_way_is_told_and_ends_with_one(tmp_path, monkeypatch, capsys):
    right = bench_clip_attention.attend_clip

    def wrong(*operands, neighbours, backend):
        found = right(*operands, neighbours=neighbours, backend=backend)
        return found if neighbours == 6 else 1.1 * found

    monkeypatch.setattr(bench_clip_attention, "attend_clip", wrong)
    with pytest.raises(SystemExit, match="2: .* wrong"):
        run(tmp_path / "clips.json")
    found = read_record(tmp_path / "clips.json").results
    assert {name.split("/")[-1] for name in found} == {"6"}, "no time of what is wrong"


def test_a_nan_is_wrong_too(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_clip_attention, "_error", lambda *_: float("nan"))
    with pytest.raises(SystemExit, match="2, 6: .* wrong"):
        run(tmp_path / "clips.json")


@pytest.mark.parametrize("ways", [["0"], ["two"], ["-1"]])
def test_ways_that_are_none(tmp_path, ways):
    with pytest.raises(SystemExit, match=f"--ways={ways[0]}: take kernel, and num"):
        run(tmp_path / "clips.json", ways=ways)


def test_the_kernel_needs_a_gpu(tmp_path):
    with pytest.raises(SystemExit, match="the Triton kernel needs an Ampere GPU"):
        run(tmp_path / "clips.json", ways=["kernel"])
