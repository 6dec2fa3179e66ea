"""A file in, four files and a summary out; or one clear line and nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import jax
import numpy as np
import pytest
from PIL import Image
from video_clips import (
    counting,
    number_of,
    read_all,
    write_clip,
    write_empty_clip,
    write_sound,
)

import main
from configs import demo
from configs import render as render_config
from mirage_jax import render as rendering
from mirage_jax.codec import init_codec
from mirage_jax.config import MODELS
from mirage_jax.denoiser import init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.render import render
from mirage_jax.render_settings import OUTPUTS, RenderSettings
from mirage_jax.run_summary import summary_table
from mirage_jax.schedule import parse_schedule
from mirage_jax.stream import StreamConfig, open_stream, set_prompt
from mirage_jax.stream_driver import StreamDriver, time_frames
from mirage_jax.video import writer
from mirage_jax.weights import Model, save_weights

ROOT = Path(__file__).parent.parent
NO_MODEL = Model(MODELS["test"], {}, "0" * 64)


class Negative:
    """Stands in for a stream: the negative of the source, after `fail_at` an error."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None):
        self.calls: list[str] = []
        self.since_open = 0
        self.fail_at, self.error = fail_at, error

    def open(self, prompt, seed):
        self.calls.append(f"open {prompt[0]:g} {seed}")
        self.since_open = 0

    def set_prompt(self, prompt):
        self.calls.append(f"{self.since_open}: {prompt[0]:g}")

    def step(self, source):
        if self.since_open == self.fail_at:
            assert self.error is not None
            raise self.error
        self.since_open += 1
        return 255 - jax.numpy.asarray(source)


def encode(prompts):
    """Prompt -> its length, 384 times."""
    return np.array([[len(p)] * 384 for p in prompts], np.float32)


def settings(tmp_path: Path, **changes: Any) -> RenderSettings:
    values = render_config.get_config().to_dict()
    defaults = {
        "source": str(tmp_path / "source.mp4"),
        "out": str(tmp_path / "out"),
        "size": "64x96",
        "timing_seconds": 0.0,
    }
    return RenderSettings.from_values(values | defaults | changes)


def run(tmp_path, driver=None, **changes):
    return render(settings(tmp_path, **changes), NO_MODEL, driver or Negative(), encode)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "source.mp4", counting(80, 120), frames=18)


def test_the_four_files_show_the_source_and_the_styled_frames(tmp_path, source):
    summary = run(tmp_path)
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == sorted(OUTPUTS)
    styled = read_all(out / "styled.mp4")
    assert styled[0].shape == (64, 96, 3)
    assert [number_of(255 - image) for image in styled] == list(range(18))
    compare = read_all(out / "compare.mp4")
    assert compare[0].shape == (64, 192, 3)
    for index, image in enumerate(compare):
        assert number_of(image[:, :90]) == index
        assert number_of(255 - image[:, 102:]) == index
    with Image.open(out / "contact_sheet.png") as image:
        assert image.width > 6 * 300
    assert json.loads((out / "summary.json").read_text()) == summary


def test_the_summary_says_what_was_done(tmp_path, source):
    summary = run(tmp_path, prompt="pencil drawing", steps=2, seed=7)
    assert summary["frames"] == 18
    assert summary["frames_per_second"] == 25
    assert (summary["height"], summary["width"]) == (64, 96)
    assert summary["prompts"] == [{"seconds": 0.0, "prompt": "pencil drawing"}]
    assert (summary["steps"], summary["seed"], summary["audio"]) == (2, 7, "none")
    assert summary["weights_sha256"] == NO_MODEL.sha256
    assert (summary["platform"], summary["jax"]) == ("cpu", jax.__version__)
    assert summary["peak_memory_of"] == "process"
    assert summary["peak_memory_bytes"] > 2**20
    frame_ms = summary["frame_ms"]
    assert 0 < frame_ms["p50"] <= frame_ms["p95"] <= frame_ms["p99"]
    assert frame_ms["frames"] >= 3
    for name in ("compile_seconds", "wall_seconds", "fps"):
        assert summary[name] > 0
    table = summary_table(summary)
    for part in ("pencil drawing", "18 of 64x96", "2 steps", "frame time"):
        assert part in table


def test_prompts_change_at_their_frames(tmp_path, source):
    driver = Negative()
    run(tmp_path, driver, schedule="0s: a; 0.2s: bb; 0.4s: ccc", seed=5)
    # Once for the timing pass, once for the film itself.
    assert driver.calls == ["open 1 5", "open 1 5", "5: 2", "10: 3"]


def test_a_clip_may_be_cut_and_its_rate_changed(tmp_path, source):
    assert run(tmp_path, max_frames=4)["frames"] == 4
    summary = run(tmp_path, fps=12.5, compare=False)
    assert summary["frames"] == 10
    assert not (tmp_path / "compare.mp4").exists()
    styled = read_all(tmp_path / "out" / "styled.mp4")
    # Half the rate: every second frame, and the last one.
    shown = [number_of(255 - image) for image in styled]
    assert shown == [0, 2, 4, 6, 8, 10, 12, 14, 16, 17]
    assert run(tmp_path, cpu_max_frames=3)["frames"] == 3
    assert run(tmp_path, cpu_max_frames=3, max_frames=2)["frames"] == 2


def test_portrait_uneven_and_tiny_sources_are_rendered(tmp_path):
    path = tmp_path / "source.mp4"
    write_clip(path, counting(48, 96), frames=3, rotation=-90)
    assert run(tmp_path, fit="pad")["frames"] == 3
    write_clip(path, counting(3, 5), frames=3, pixels="yuv444p")
    assert run(tmp_path)["frames"] == 3
    uneven = write_clip(
        tmp_path / "vfr.mkv", counting(48, 64), frames=4, times=[0, 0.04, 0.2, 0.24]
    )
    assert run(tmp_path, source=str(uneven))["frames"] == 7


def test_the_sound_is_kept_unless_it_is_not_wanted(tmp_path):
    write_clip(tmp_path / "source.mp4", counting(48, 64), frames=18, sound="aac")
    assert run(tmp_path)["audio"] == "copied"
    with av.open(str(tmp_path / "out" / "styled.mp4")) as container:
        assert len(container.streams.audio) == 1
    assert run(tmp_path, audio=False)["audio"] == "none"


@pytest.fixture(scope="module")
def small_model() -> Model:
    """The test size with random weights, whatever the names of its tensors."""
    config, key = MODELS["test"], jax.random.key(0)
    shapes = {
        "codec": jax.eval_shape(lambda: init_codec(key, config.codec)),
        "denoiser": jax.eval_shape(lambda: init_denoiser(key, config)),
    }
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: random.normal(0, 0.2, s.shape).astype(np.float32), shapes
    )
    params["codec"]["statistics"] = jax.tree.map(
        np.ones_like, params["codec"]["statistics"]
    )
    return Model(config, params, "1" * 64)


def test_the_film_is_the_stream_step_on_every_frame(small_model):
    """The real model: what is written is what the bare step gives, prompts included."""
    frames = [
        np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        for i in range(5)
    ]
    prompts = np.random.default_rng(9).normal(size=(2, 384)).astype(np.float32)
    config = StreamConfig(height=64, width=64, dtype="float32")
    model = small_model
    driver = StreamDriver(model, config)
    schedule = parse_schedule("0s: a; 0.12s: b")
    driver.open(prompts[0], 3)
    times = time_frames(driver, frames, seconds=0.0)
    assert len(times) == 3
    shown = list(
        rendering._stream(driver, frames, schedule, prompts, Fraction(25), seed=3)
    )
    state = open_stream(
        model.params,
        model.config,
        config,
        jax.numpy.asarray(prompts[:1]),
        jax.random.key(3),
    )
    step = driver._step  # what make_step gave, already compiled
    for index, (source, styled) in enumerate(shown):
        np.testing.assert_array_equal(source, frames[index])
        if index == 3:
            state = set_prompt(
                model.params, model.config, state, jax.numpy.asarray(prompts[1:])
            )
        state, expected = step(model.params, state, frames[index][None])
        # Compiled apart, the prompt slots may differ in the last bit.
        np.testing.assert_allclose(
            styled.astype(int), np.asarray(expected)[0].astype(int), atol=1
        )
    assert len(shown) == 5
    assert len({styled.tobytes() for _, styled in shown}) == 5


# Bad input: one line, and no file.


def refuse(tmp_path, match, driver=None, **changes):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(MirageError, match=match) as caught:
        run(tmp_path, driver, **changes)
    assert "\n" not in str(caught.value)
    out = tmp_path / "out"
    assert not out.exists() or os.listdir(out) == []
    assert sorted(set(os.listdir(tmp_path)) - {"out"}) == sorted(set(before) - {"out"})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"source": ""}, "no source is given"),
        ({"source": "none.mp4"}, "no file none.mp4"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 10_001}, "prompt.*10.?00"),
        ({"schedule": "0s: oil; later: neon"}, "'later: neon'"),
        ({"schedule": "0s: oil; 2s: " + "x" * 10_001}, "prompt"),
        ({"size": "100"}, "100 is not a multiple of 32"),
        ({"size": "big"}, "'big' is not a size"),
        ({"fit": "stretch"}, "'stretch'"),
        ({"steps": 3}, "steps=3"),
        ({"commit": "never"}, "commit='never'"),
        ({"precision": "float8"}, "'float8'"),
        ({"fps": -1.0}, "fps -1.0 is out of range"),
        ({"seed": -5}, "seed -5"),
        ({"max_frames": -2}, "max_frames -2"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, source, changes, match):
    refuse(tmp_path, match, **changes)


def test_a_bad_source_is_named(tmp_path):
    (tmp_path / "garbage.mp4").write_bytes(b"no video" * 500)
    refuse(tmp_path, "garbage.mp4", source=str(tmp_path / "garbage.mp4"))
    sound = write_sound(tmp_path / "song.wav")
    refuse(tmp_path, "song.wav has no video", source=str(sound))
    empty = write_empty_clip(tmp_path / "empty.mov")
    refuse(tmp_path, "empty.mov has no ", source=str(empty))


def test_the_source_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    path = write_clip(tmp_path / "out" / "styled.mp4", counting(48, 64))
    before = path.read_bytes()
    with pytest.raises(MirageError, match="would be overwritten"):
        run(tmp_path, source=str(path))
    assert path.read_bytes() == before


def test_an_exhausted_device_is_one_line(tmp_path, source):
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore\nlines"
    )
    for fail_at in (0, 9):
        driver = Negative(fail_at, error)
        refuse(tmp_path, "no memory left on .* 64x96 .*smaller --config.size", driver)


def test_other_failures_of_the_device_are_not_disguised(tmp_path, source):
    error = jax.errors.JaxRuntimeError("INTERNAL: a bug")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        run(tmp_path, Negative(9, error))
    assert os.listdir(tmp_path / "out") == []


def test_ctrl_c_half_way_leaves_nothing(tmp_path, source):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Negative(9, KeyboardInterrupt()))
    assert os.listdir(tmp_path / "out") == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, source, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_clip(source, counting(48, 64), frames=18, sound="aac")
    monkeypatch.setattr(writer.AudioTrack, "advance", full)
    refuse(tmp_path, "No space left on device; free some space")


def test_a_failed_run_keeps_the_results_of_the_one_before(tmp_path, source):
    run(tmp_path)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in OUTPUTS}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Negative(9, KeyboardInterrupt()))
    assert sorted(os.listdir(tmp_path / "out")) == sorted(OUTPUTS)
    for name in OUTPUTS:
        assert (tmp_path / "out" / name).read_bytes() == before[name]


# The command itself.


class Config:
    """Stands in for the flag."""

    def __init__(self, value):
        self.value = value


@pytest.fixture
def command(monkeypatch):
    """Runs main.py's own code with a config, without flags or weights."""

    def call(config, render=None):
        monkeypatch.setattr(main, "_CONFIG", Config(config))
        monkeypatch.setattr(main.app, "run", lambda run, **_: sys.exit(run(["main"])))
        monkeypatch.setattr(main.signal, "signal", lambda *_: None)
        monkeypatch.setattr(main, "load_model", lambda name: NO_MODEL)
        if render is not None:
            monkeypatch.setattr(main, "render", render)
        with pytest.raises(SystemExit) as stop:
            main.run()
        return stop.value.code or 0

    return call


def test_success_prints_device_and_table(tmp_path, source, command, capsys):
    config = render_config.get_config()
    config.source, config.out = str(source), str(tmp_path / "out")
    config.size, config.timing_seconds = "64", 0.0

    def with_fake(settings, model, progress):
        return render(settings, model, Negative(), encode, progress)

    assert command(config, with_fake) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("device        cpu")
    assert "frame time" in printed.out
    assert "18/18" in printed.err  # the progress bar


def test_errors_are_one_line_and_code_1(command, capsys):
    config = render_config.get_config()
    config.source = "none.mp4"
    assert command(config) == 1
    assert capsys.readouterr().err == (
        "main.py: there is no file none.mp4: check --config.source\n"
    )
    assert command(None) == 1
    assert "configs/demo.py" in capsys.readouterr().err


def test_ctrl_c_is_code_130(command, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    config = render_config.get_config()
    assert command(config, stopped) == 130
    assert capsys.readouterr().err.count("\n") == 1


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_flags_that_do_not_fit_are_one_line():
    cases = {
        "configs/none.py": ["--config=configs/none.py"],
        "setting nope": ["--config=configs/demo.py", "--config.nope=3"],
    }
    running = {part: start(*arguments) for part, arguments in cases.items()}
    for part, process in running.items():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert part in errors
        assert errors.startswith("main.py: ")
        assert errors.count("\n") == 1


def test_ctrl_c_reaches_a_running_command(tmp_path, small_model):
    """A real signal while frames are being made."""
    for name in ("codec", "denoiser"):
        save_weights(
            tmp_path / "m" / f"{name}.safetensors",
            small_model.params[name],
            getattr(small_model.config, name),
        )
    out = tmp_path / "out"
    process = start(
        "--config=configs/demo.py",
        f"--config.model={tmp_path}/m",
        f"--config.out={out}",
        "--config.size=64",
        "--config.cpu_max_frames=0",
        "--config.timing_seconds=120",
    )
    try:
        deadline = time.monotonic() + 100
        while not (out.exists() and os.listdir(out)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "main.py: stopped by Ctrl-C; no file was written"
    assert "Traceback" not in errors
    assert os.listdir(out) == []


def test_the_demo_clip_is_there_and_small():
    config = demo.get_config()
    path = Path(config.source)
    assert path.stat().st_size < 700_000
    assert (path.parent / "CREDITS.md").read_text().count("Blender Foundation")
    images = read_all(path)
    assert len(images) >= 96
    assert images[0].shape == (512, 512, 3)
    RenderSettings.from_values(config.to_dict())
