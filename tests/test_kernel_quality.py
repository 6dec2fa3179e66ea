"""The proof that kernels leave pictures alone, with a random model at 64x64."""

import contextlib
import importlib
import io
import json

import pytest
from absl import flags
from absl.testing import flagsaver
from moving_blob import blob_clip, write_clip
from toy_model import save_model

from experiments import kernel_quality
from mirage_jax.errors import MirageError
from mirage_jax.results import read_results
from pallas_kernels._mosaic import HAS_MOSAIC
from pallas_kernels.device import Device


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a clip."""
    folder = tmp_path_factory.mktemp("kernel_quality")
    save_model(folder / "model")
    (folder / "clips").mkdir()
    write_clip(folder / "clips" / "blob.mp4", blob_clip(16))
    return folder


def run(folder, **changed):
    """The script's own flags, whichever module defined their names last."""
    module = importlib.reload(kernel_quality)
    flags.FLAGS.mark_as_parsed()
    given = {
        "model": str(folder / "model"),
        "clips": str(folder / "clips"),
        "sizes": [64],
        "frames": 16,
        "segments": 1,
        "styles": ["sepia", "thermal"],
        "out": str(folder / "quality.json"),
    }
    with flagsaver.flagsaver(**(given | changed)):
        return module.kernel_quality(), module


@pytest.fixture(scope="module")
def compared(folder):
    """What a run of all paths that a CPU has returned and printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        failed, _ = run(folder, most_8bit_db=5.0, paths=["int8", "float8", "kernels"])
    return failed, printed.getvalue()


def test_every_path_is_compared_with_the_plain_one(folder, compared):
    failed, _ = compared
    assert not failed
    found = read_results(folder / "quality.json")
    for path in ("kernels", "int8", "float8"):
        assert found[f"psnr_exact/{path}/64/1"] > 25
        change = found[f"psnr/{path}/sepia/64/1"] - found["psnr/plain/sepia/64/1"]
        assert found[f"psnr_change/{path}/sepia/64/1"] == pytest.approx(
            change,
            abs=2e-4,  # a file has six digits
        )
    exact = [found[f"psnr_exact/{path}/64/1"] for path in ("plain", "int8", "float8")]
    assert found["psnr_exact/float32/64/1"] == 100 and exact == sorted(exact)[::-1]


def test_clips_and_backends_are_told(folder, compared):
    _, said = compared
    found = read_results(folder / "quality.json")
    for path in ("kernels", "int8", "plain"):
        clip = found[f"psnr_clip/{path}/sepia/blob:0/64/1"]
        assert found[f"psnr/{path}/sepia/64/1"] == pytest.approx(clip)
    setup = json.loads((folder / "quality.json").read_text())["setup"]
    # Not those of the path before: only what this stream called.
    assert set(setup["last_backends"]["kernels/64/1"].values()) == {"xla"}
    assert "linear" in setup["last_backends"]["kernels/64/1"]
    assert "linear_8bit" not in setup["last_backends"]["kernels/64/1"]
    assert "linear_8bit" in setup["last_backends"]["int8/64/1"]
    assert "XLA stands in" in said and "kernels/64/1: kernels of ours ran in no" in said


def test_every_kernel_is_proved_where_it_can_run():
    module = importlib.reload(kernel_quality)
    old, new = (Device("NVIDIA X", c, 8) for c in ((8, 0), (9, 0)))
    assert module._able(None) == ["kernels", "int8", "float8"]
    assert module._able(old) == ["kernels", "triton", "int8"]
    hopper = ["mosaic"] if HAS_MOSAIC else []
    assert module._able(new) == ["kernels", "triton", *hopper, "int8", "float8"]


def test_a_path_that_cannot_run_is_named(folder):
    with pytest.raises(MirageError, match="'triton' cannot run here: .*choose --paths"):
        run(folder, paths=["triton"], styles=["sepia"])


def test_a_loss_fails(folder, monkeypatch, capsys):
    module = importlib.reload(kernel_quality)
    flags.FLAGS.mark_as_parsed()
    values = {
        "psnr_change/kernels/mean/64/1": -0.06,
        "psnr_change/triton/mean/64/1": -0.04,
        "psnr_change/int8/mean/64/1": -0.1,
    }
    values["psnr_change/kernels/sepia/64/1"] = float("nan")
    lines = module._losses(values, ["kernels", "triton", "int8"])
    assert len(lines) == 2 and "kernels/mean" in lines[0] and "nan" in lines[1]


def test_an_unknown_path_is_named(folder):
    with pytest.raises(MirageError, match="'int4' is none of"):
        run(folder, paths=["int4"])
