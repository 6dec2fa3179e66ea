"""Profiles: what a trace holds, its window, and that the program stays as it is."""

import contextlib
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from absl import flags
from absl.testing import flagsaver
from render_fakes import NO_MODEL, Negative, encode, settings
from video_clips import counting, write_clip

from experiments import bench_pass, evaluate, train_codec, train_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.profiling import Profile
from mirage_jax.render import render
from mirage_jax.stream import make_step
from mirage_jax.training.loop import train
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.weights import Model


def runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


def steps_of(folder: Path, name: str) -> list[int]:
    """Numbers of the annotated steps in the only trace of a folder."""
    (path,) = runs(folder)
    profile = jax.profiler.ProfileData.from_file(str(path))
    return [
        dict(event.stats)["step_num"]
        for plane in profile.planes
        for line in plane.lines
        for event in line.events
        if event.name == name
    ]


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    "count, traced, told",
    [
        (9, [3, 4, 5, 6], "frame 3 to 6; open it with tensorboard --logdir="),
        (5, [3, 4], "frame 3 to 4 (the run ended after 5 of 7); "),
        (3, [0, 1, 2], "frame 0 to 2 (the run ended after 3 of 7: warm-up alone); "),
        (1, [0], "frame 0 to 0 (the run ended after 1 of 7: warm-up alone); "),
    ],
)
def test_a_window_is_traced_or_what_there_was(tmp_path, capsys, count, traced, told):
    with Profile(str(tmp_path), "frame", warm_up=3, steps=4) as profile:
        found = [int(profile(number, double, number)) for number in range(count)]
    assert found == [2 * number for number in range(count)]
    assert steps_of(tmp_path, "frame") == traced
    printed = capsys.readouterr().out
    assert printed.startswith(f"profile: {told}") and printed.count("\n") == 1
    assert str(tmp_path) in printed


def test_a_second_trace_leaves_the_first(tmp_path):
    older = tmp_path / "plugins" / "profile" / "older" / "host.xplane.pb"
    older.parent.mkdir(parents=True)
    older.touch()
    with Profile(str(tmp_path), "frame", warm_up=1, steps=1) as profile:
        for number in range(2):
            profile(number, double, number)
    assert older.exists() and len(runs(tmp_path)) == 2


def test_a_failed_run_ends_its_trace(tmp_path, capsys):
    def fails():
        raise MirageError("stopped")

    for _ in range(2):  # a trace left open would refuse the second
        with pytest.raises(MirageError, match="stopped"):
            with Profile(str(tmp_path / "failed"), "frame") as profile:
                profile(0, fails)
        assert "frame 0 to 0 (the run ended after 0 of 30" in capsys.readouterr().out
    with Profile(str(tmp_path / "unused"), "frame"):
        pass
    assert capsys.readouterr().out.startswith("no profile: the run ended before its")


def test_without_a_folder_nothing_is_traced(capsys, monkeypatch):
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: pytest.fail())
    with Profile("", "frame", warm_up=0) as profile:
        assert profile(0, double, 2) == 4
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MirageError, match="cannot write .*file/x: ") as raised:
        Profile(str(tmp_path / "file" / "x"), "frame")
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_film_is_profiled_frame_by_frame_and_by_scopes(tmp_path, capsys):
    source = write_clip(tmp_path / "source.mp4", counting(64, 96), frames=6)
    folder = tmp_path / "profile"
    chosen = settings(
        tmp_path,
        source=str(source),
        size="64",
        steps=1,
        commit="clean",
        compare=False,
        profile_dir=str(folder),
    )
    render(chosen, Model(toy_model.MODEL, toy_model.params(), "0" * 64), None, encode)
    assert steps_of(folder, "frame") == list(range(6))
    assert "6 of 30: warm-up alone" in capsys.readouterr().out
    (path,) = runs(folder)
    trace = (
        path.read_bytes()
    )  # the programs are in it, with the scopes of each operation
    passes = [f"denoise/{name}" for name in ("pass_0", "pass_clean")]
    within = ["Stem", "Head", "layer_1", "Block/attention/commit", "Block/mlp"]
    for scope in ("encode", "decode", *passes, *within):
        assert f"{scope}/".encode() in trace, scope


def test_a_folder_that_cannot_be_written_stops_a_film_at_once(tmp_path):
    (tmp_path / "file").touch()
    chosen = settings(tmp_path, profile_dir=str(tmp_path / "file"))
    driver = Negative()
    with pytest.raises(MirageError, match="cannot write .*file"):
        render(chosen, NO_MODEL, driver, encode)
    assert not driver.calls


class Unnamed(contextlib.ContextDecorator):
    """A scope that names nothing."""

    def __init__(self, name):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("unroll", [True, False])
def test_scopes_leave_the_program_as_it_is(monkeypatch, unroll):
    stream = toy_model.settings(unroll=unroll, commit="lagged", steps=2)
    source = np.zeros((stream.batch, stream.height, stream.width, 3), np.uint8)
    state = toy_model.start(stream)

    def lowered():
        step = make_step(toy_model.MODEL, stream)
        return step.lower(toy_model.params(), state, source).style

    named = lowered()
    assert "pass_1" in named.as_text(debug_info=True)
    monkeypatch.setattr(jax, "named_scope", Unnamed)
    unnamed = lowered()
    assert "pass_1" not in unnamed.as_text(debug_info=True)
    assert named.as_text() == unnamed.as_text()


def quadratic(params, key, data, step):
    return jnp.square(params["w"] - data["w"]).mean(), {}


def test_training_is_profiled_under_the_numbers_of_its_steps(tmp_path):
    params, data = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}

    def run(steps, folder):
        config = TrainConfig(steps=steps, picture_every=0, checkpoint_every=4)
        profile = Profile(str(tmp_path / folder), "step", warm_up=1, steps=2)
        work = tmp_path / "work"
        train(work, config, params, [quadratic], lambda _: 0, data, profile=profile)

    run(4, "first")
    run(8, "second")  # goes on from step 4
    assert steps_of(tmp_path / "first", "step") == [1, 2]
    assert steps_of(tmp_path / "second", "step") == [5, 6]
    (path,) = runs(tmp_path / "first")
    for scope in (b"optimiser/", b"average/"):
        assert scope in path.read_bytes()


@pytest.mark.parametrize("name", ["train_codec", "train_denoiser"])
def test_trainings_refuse_the_folder_before_they_load(tmp_path, monkeypatch, name):
    module = importlib.import_module(f"configs.{name}")
    script, loader = {
        "train_codec": (train_codec, "model_config"),
        "train_denoiser": (train_denoiser, "load_stage"),
    }[name]
    (tmp_path / "file").touch()
    config = module.get_config()
    assert config.profile_dir == ""
    config.profile_dir = str(tmp_path / "file")
    monkeypatch.setattr(script, loader, lambda _: pytest.fail())
    with pytest.raises(MirageError, match="cannot write .*file"):
        script.run(config)


@pytest.mark.parametrize(
    ("script", "load"), [(evaluate, "load_model"), (bench_pass, "load_named")]
)
def test_measurements_refuse_the_folder_before_they_load(
    tmp_path, monkeypatch, script, load
):
    script = importlib.reload(script)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    (tmp_path / "file").touch()
    monkeypatch.setattr(script, load, lambda _: pytest.fail())
    more = {"interpret": True} if script is bench_pass else {}
    with (
        flagsaver.flagsaver(profile_dir=str(tmp_path / "file"), **more),
        pytest.raises(SystemExit, match="cannot write .*file"),
    ):
        script.main([script.__name__])
