"""The benchmark of training steps, end to end on the CPU with the smallest model."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import bench_train
from experiments.bench_train import Measured
from mirage_jax.config import MODELS
from mirage_jax.cost_model import count_parameters
from mirage_jax.results import read_record
from mirage_jax.training.work import StepWork, clip_work

TINY = {
    "model": "test",
    "size": 32,
    "frames": 2,
    "styles": ["sepia"],
    "steps": 2,
    "warmup": 1,
    "optimiser": "adamw",
}


def cheap(model, batch, loss):
    """In place of the denoiser's loss, which takes most of a minute to compile."""

    def run(params, key, data, step):
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(params)), {}

    assert (batch.size, batch.frames, batch.draws) == (32, 2, 2)
    assert loss.remat == "light"
    return run


def run(out, **settings):
    importlib.reload(bench_train)  # other scripts have flags of the same names
    bench_train.make_denoiser_loss = cheap  # type: ignore[assignment]
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(out=str(out), **TINY | settings):
        bench_train.main(["bench_train"])
    return read_record(out)


def test_steps_are_timed_and_recorded(tmp_path, capsys):
    record = run(tmp_path / "train.json", draws=2, remat="light")
    values = {name: result.value for name, result in record.results.items()}
    assert values["parameters"] == count_parameters(MODELS["test"])
    clip = clip_work(MODELS["test"], 32, 2)
    assert record.setup["tokens_a_device_and_step"] == 2 * clip.tokens
    seconds = values["step_ms/1"] / 1e3
    pace = pytest.approx(2 * clip.tokens / seconds, rel=1e-5)
    assert values["tokens_per_s/1"] == pace
    assert values["memory_gib/1/planned"] > 0 and values["memory_gib/peak/process"] > 0
    assert "model_flop_use/1" not in values, "no data sheet gives a CPU's peak"
    assert "ms a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, named",
    [({"devices": ["1", "9"]}, "--devices=1,9: 1 are here"), ({"fsdp": 2}, "fsdp=2")],
)
def test_devices_that_are_not_there_are_named(tmp_path, settings, named):
    with pytest.raises(SystemExit, match=named):
        run(tmp_path / "train.json", **settings)


def test_efficiency_is_the_same_time_for_twice_the_work(tmp_path):
    importlib.reload(bench_train)
    flags.FLAGS.mark_as_parsed()
    done = [
        Measured(count, seconds, 1.0, 2**30, 0.5, StepWork(count, count * 8, count * 8))
        for count, seconds in ((1, 0.4), (2, 0.5))
    ]
    with flagsaver.flagsaver(out=str(tmp_path / "train.json")):
        bench_train._write(done, 1, 5)
    results = read_record(tmp_path / "train.json").results
    assert results["scaling/2"].value == pytest.approx(0.8)
    assert "scaling/1" not in results
