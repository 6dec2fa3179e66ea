"""The command: exit codes, one line for what the user can cure, signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from render_fakes import NO_MODEL, Negative, encode
from toy_model import save_model
from video_clips import counting, read_all, write_clip

from configs import demo
from configs import live as live_config
from configs import render as render_config
from mirage_jax import cli as main
from mirage_jax.live.settings import LiveSettings
from mirage_jax.render import render
from mirage_jax.render_settings import RenderSettings

ROOT = Path(__file__).parent.parent


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


def test_success_prints_device_and_table(tmp_path, command, capsys):
    source = write_clip(tmp_path / "source.mp4", counting(80, 120), frames=18)
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


def test_a_live_config_serves_and_an_unknown_kind_is_one_line(
    command, capsys, monkeypatch
):
    served: list[LiveSettings] = []
    monkeypatch.setattr(main, "run_live", lambda settings, _: served.append(settings))
    config = live_config.get_config()
    assert command(config) == 0
    assert served[0].port == config.port
    config.seats = 0
    assert command(config) == 1
    assert capsys.readouterr().err == (
        "main.py: seats 0 is out of range: take 1 to 64\n"
    )
    config.kind = "dream"
    assert command(config) == 1
    assert capsys.readouterr().err == (
        "main.py: kind 'dream' is unknown: choose one of render, live\n"
    )


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


def test_ctrl_c_reaches_a_running_command(tmp_path):
    """A real signal while frames are being made."""
    save_model(tmp_path / "m")
    out = tmp_path / "out"
    # A shell's & makes its command ignore Ctrl-C, and a child inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(
        "--config=configs/demo.py",
        f"--config.model={tmp_path}/m",
        f"--config.out={out}",
        "--config.size=64",
        "--config.cpu_max_frames=0",
        "--config.timing_seconds=120",
    )
    signal.signal(signal.SIGINT, before)
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
