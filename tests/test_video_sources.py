"""Live sources: what each gives, pace, losses, and what cannot be had."""

import functools
import http.server
import itertools
import os
import sys
import threading

import numpy as np
import pytest
from video_clips import counting, write_clip

from mirage_jax.errors import MirageError
from mirage_jax.video import capture
from mirage_jax.video.network import NetworkSource
from mirage_jax.video.reader import Frame
from mirage_jax.video.sources import live_source, paced


def test_the_pattern_moves_evenly_and_without_end():
    source, hurried = live_source("pattern")
    assert hurried
    with source:
        frames = list(itertools.islice(source, 5))
    assert [f.time for f in frames] == pytest.approx([k / 30 for k in range(5)])
    for one, other in itertools.pairwise(frames):
        assert one.image.shape == (480, 640, 3)
        assert one.image.dtype == np.uint8
        assert 1 < np.abs(one.image.astype(int) - other.image).mean() < 30


def test_a_file_comes_at_its_own_pace(tmp_path):
    write_clip(tmp_path / "a.mp4", counting(64, 64), frames=5)
    source, hurried = live_source(str(tmp_path / "a.mp4"))
    assert hurried
    now, slept = [50.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    with source:
        for number, _ in enumerate(paced(source, lambda: now[0], sleep)):
            if number == 2:
                now[0] += 0.06  # a slow reader
    assert slept == pytest.approx([0.04, 0.04, 0.02])


def test_paced_frames_begin_at_once():
    frames = [Frame(np.zeros((2, 2, 3), np.uint8), 1e6)]
    assert len(list(paced(frames, sleep=lambda seconds: pytest.fail("slept")))) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("camera:7", r"cannot open camera 7 \(/dev/video7: No such file"),
        ("camera:front", "camera 'front' is no number"),
        ("screen", "DISPLAY is not set"),
        ("screen:big", "region 'big' is none"),
        ("screen:64x64", r"cannot open the screen \(:97\+0,0"),
        ("rtsp://127.0.0.1:1/s3cret", r"cannot open the rtsp source \(Connection ref"),
        ("nowhere.mp4", "there is no file nowhere.mp4"),
    ],
)
def test_what_is_not_there_is_said(monkeypatch, source, words):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    if "64x64" in source:
        monkeypatch.setenv("DISPLAY", ":97")
    with pytest.raises(MirageError, match=words) as caught:
        live_source(source)
    assert "s3cret" not in str(caught.value)


def test_a_system_without_such_devices_is_said(monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    for source in ("camera", "screen"):
        with pytest.raises(MirageError, match=f"cannot read a {source} on this system"):
            live_source(source)


def test_a_device_gives_frames_and_its_end_is_an_error():
    """FFmpeg's own test device in the place of a camera."""
    device = capture.CaptureDevice(
        "the test device", "lavfi", "testsrc=size=64x48:rate=30:duration=0.2", {}
    )
    with device:
        frames = list(device)
    assert [f.image.shape for f in frames] == [(48, 64, 3)] * 6
    assert frames[-1].time - frames[0].time == pytest.approx(5 / 30)


def test_a_device_that_is_unplugged_is_said():
    device = capture.CaptureDevice("camera 7", "lavfi", "testsrc=size=64x48", {})

    with device:
        opened = device._container

        class Unplugged:
            streams = opened.streams

            def decode(self, stream):
                yield next(opened.decode(stream))
                raise OSError(19, "No such device")

        device._container = Unplugged()
        frames = iter(device)
        assert next(frames).image.shape == (48, 64, 3)
        with pytest.raises(MirageError, match=r"camera 7 is gone \(No such device\)"):
            next(frames)
        device._container = opened


@pytest.mark.parametrize(
    ("system", "source", "opened"),
    [
        ("linux", "screen:64x48+1+2", ("x11grab", ":97+1,2", {"video_size": "64x48"})),
        (
            "win32",
            "screen:64x48+1+2",
            (
                "gdigrab",
                "desktop",
                {"video_size": "64x48", "offset_x": "1", "offset_y": "2"},
            ),
        ),
        ("win32", "camera:Front", ("dshow", "video=Front", {})),
        ("darwin", "camera:1", ("avfoundation", "1", {})),
    ],
)
def test_each_system_calls_its_devices_differently(monkeypatch, system, source, opened):
    calls = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("DISPLAY", ":97")
    monkeypatch.setattr(capture, "_readable", lambda what, container: container)
    monkeypatch.setattr(
        capture.CaptureDevice, "__init__", lambda self, *told: calls.append(told)
    )
    live_source(source)
    [(_, container, address, options)] = calls
    assert (container, address) == opened[:2]
    assert opened[2].items() <= options.items()


def test_devices_that_this_build_of_pyav_lacks_are_said(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MirageError, match="cannot read a screen on this system"):
        live_source("screen")


def test_an_address_is_opened_again(tmp_path):
    """A server whose stream ends: times go on, as if nothing had been."""
    write_clip(tmp_path / "a.mp4", counting(64, 64), frames=5)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=os.fspath(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/a.mp4"
    with NetworkSource(address, pauses=(0.01,)) as source:
        frames = list(itertools.islice(source, 12))
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert frames[5].time == pytest.approx(frames[4].time)
    assert (frames[0].image == frames[5].image).all()
    server.shutdown()
    server.server_close()
    with pytest.raises(MirageError, match="Connection refused"):
        NetworkSource(address)


def test_an_address_without_video_for_a_while_is_tried_again(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", counting(64, 64), frames=5)
    with NetworkSource(f"file:{tmp_path / 'a.mp4'}", pauses=(0.01,)) as source:
        opened, refusals = source._open, [ValueError("it has no video")]

        def reopened():
            if refusals:
                raise refusals.pop()
            return opened()

        monkeypatch.setattr(source, "_open", reopened)
        assert len(list(itertools.islice(source, 8))) == 8 and not refusals
