"""A file in, four files and a summary out; or one clear line and nothing."""

import errno
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image
from render_fakes import NO_MODEL, Negative, run, small_model
from video_clips import (
    counting,
    number_of,
    read_all,
    write_clip,
    write_empty_clip,
    write_sound,
)

from mirage_jax import render as rendering
from mirage_jax.errors import MirageError
from mirage_jax.profiling import Profile
from mirage_jax.render_settings import OUTPUTS
from mirage_jax.run_summary import summary_table
from mirage_jax.schedule import parse_schedule
from mirage_jax.stream import make_step, open_stream, set_prompt
from mirage_jax.stream_config import StreamConfig
from mirage_jax.stream_driver import StreamDriver, time_frames
from mirage_jax.video import writer


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


def test_strength_lies_between_the_source_and_its_negative(tmp_path, source):
    summary = run(tmp_path, strength=0.5)
    styled = read_all(tmp_path / "out" / "styled.mp4")
    # Half of each is grey; a few steps are left to the video's encoder.
    assert all(np.abs(image.astype(int) - 127).max() < 6 for image in styled)
    assert summary["strength"] == 0.5
    assert "0.5 of the style" in summary_table(summary)
    run(tmp_path, strength=0.0)
    unstyled = read_all(tmp_path / "out" / "styled.mp4")
    assert [number_of(image) for image in unstyled] == list(range(18))


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


def test_the_film_is_the_stream_step_on_every_frame():
    """The real model: what is written is what the bare step gives, prompts included."""
    frames = [
        np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        for i in range(5)
    ]
    prompts = np.random.default_rng(9).normal(size=(2, 384)).astype(np.float32)
    config = StreamConfig(height=64, width=64, dtype="float32")
    model = small_model()
    driver = StreamDriver(model, config)
    schedule = parse_schedule("0s: a; 0.12s: b")
    driver.open(prompts[0], 3)
    times = time_frames(driver, frames, seconds=0.0)
    assert len(times) == 3
    shown = list(
        rendering._stream(
            driver, frames, schedule, prompts, Fraction(25), 3, Profile("", "frame")
        )
    )
    state = open_stream(
        model.params,
        model.config,
        config,
        jax.numpy.asarray(prompts[:1]),
        jax.random.key(3),
    )
    step = make_step(model.config, config)
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
        ({"precision": "float16"}, "'float16'"),
        ({"strength": 1.5}, "strength 1.5 is out of range: take 0 to 1"),
        ({"strength": float("nan")}, "strength nan is out of range"),
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
