"""Sinks: files that play, an address that listens, what cannot be had, the threads."""

import contextlib
import socket
import sys
import threading
import types
from typing import Any

import av
import numpy as np
import pytest

from mirage_jax.errors import MirageError
from mirage_jax.live.client import StyledFrame
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.sink_thread import SinkThread
from mirage_jax.video.live_writer import LiveWriter, free_path
from mirage_jax.video.reader import VideoReader
from mirage_jax.video.sinks import sink_openers

SIDE = 64


def grey(value):
    return np.full((SIDE, SIDE, 3), value, np.uint8)


def read(path, **options):
    with av.open(str(path), "r", **options) as video:
        return [
            (round(f.time, 3), round(float(f.to_ndarray(format="rgb24").mean())))
            for f in video.decode(video=0)
        ]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_recording_keeps_pictures_and_times(tmp_path, name):
    path = tmp_path / "new" / name
    writer = sink_openers(SIDE, SIDE, str(path), "", False)["recording"]()
    times = [100.0, 100.04, 100.2, 160.0]  # a long pause is cut
    for value, time in zip((20, 90, 160, 230), times, strict=True):
        writer.write(grey(value), time)
    writer.close()
    seen = read(path)
    assert [t - seen[0][0] for t, _ in seen] == pytest.approx([0, 0.04, 0.2, 5.2])
    assert [v for _, v in seen] == pytest.approx([20, 90, 160, 230], abs=3)


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_recording_has_the_colours_that_were_shown(tmp_path, name):
    """It says by which matrix it is to be read; players of small pictures guess."""
    shown = (200, 40, 60)
    writer = LiveWriter.to_file(str(tmp_path / name), SIDE, SIDE)
    writer.write(np.full((SIDE, SIDE, 3), shown, np.uint8), 0.0)
    writer.close()
    with VideoReader(tmp_path / name) as reader:
        (frame,) = reader
    # Rounding to 8 bits of luma and chroma, and x264's loss of a flat picture.
    np.testing.assert_allclose(frame.image.mean((0, 1)), shown, atol=4)


def test_an_older_recording_stays(tmp_path):
    for expected in ("a.mp4", "a-2.mp4", "a-3.mp4"):
        assert free_path(tmp_path / "a.mp4").name == expected
        writer = LiveWriter.to_file(str(tmp_path / "a.mp4"), SIDE, SIDE)
        writer.write(grey(50), 0.0)
        writer.close()
        assert len(read(tmp_path / expected)) == 1


def test_a_recording_that_was_cut_off_plays(tmp_path):
    path = tmp_path / "a.mp4"
    writer = LiveWriter.to_file(str(path), SIDE, SIDE)
    for number in range(200):
        writer.write(grey(number), number / 30)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes())  # as after a crash: nobody closed it
    writer.close()
    assert len(read(cut)) > 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtmp", "tcp"])
def test_a_push_arrives(scheme):
    port = free_port()
    address = f"{scheme}://127.0.0.1:{port}" + ("/live/key" if scheme == "rtmp" else "")
    listening = {
        "rtmp": (address, {"listen": "1", "timeout": "20"}),
        "tcp": (f"{address}?listen=1", {}),
    }[scheme]
    seen = []

    def listen():
        name, options = listening
        # RTMP's end of a stream is an error to FFmpeg.
        with (
            contextlib.suppress(OSError),
            av.open(name, "r", options=options) as video,
        ):
            for frame in video.decode(video=0):
                seen.append(float(frame.to_ndarray(format="rgb24").mean()))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    thread = SinkThread(
        "push", sink_openers(SIDE, SIDE, "", address, False)["push"], pauses=(0.1,)
    )
    for _ in range(100):
        thread.frame(grey(120))
        if thread.written >= 20:
            break
        threading.Event().wait(0.05)
    assert thread.close()
    listener.join(10)
    assert len(seen) >= 10
    assert seen[-1] == pytest.approx(120, abs=3)


@pytest.mark.parametrize(
    ("record", "push", "words"),
    [
        ("a.avi", "", "must end in .mp4 or .mkv"),
        ("/proc/no/a.mp4", "", "cannot write /proc/no/a.mp4"),
        ("", "somewhere", "begins with rtmp://"),
        ("", "file:///etc/x", "begins with rtmp://"),
    ],
)
def test_what_cannot_be_written_is_said(record, push, words):
    with pytest.raises(MirageError, match=words):
        sink_openers(SIDE, SIDE, record, push, False)


def test_an_address_that_nobody_takes_is_not_named(tmp_path):
    writer = LiveWriter.to_address(
        f"rtmp://127.0.0.1:{free_port()}/live/s3cret", 64, 64
    )
    with pytest.raises(MirageError, match="rtmp://...: Connection refused") as caught:
        writer.write(grey(1), 0.0)
    assert "s3cret" not in str(caught.value)
    with contextlib.suppress(MirageError):
        writer.close()


def test_a_virtual_camera_gets_the_pictures(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MirageError, match="pip install pyvirtualcam"):
        sink_openers(SIDE, SIDE, "", "", True)
    monkeypatch.undo()
    sent: list[Any] = []

    class Camera:
        def __init__(self, width, height, fps, fmt):
            if (width, height) != (SIDE, SIDE):
                raise RuntimeError("no\n device")
            self.send, self.close = sent.append, lambda: sent.append("closed")

    fake = types.SimpleNamespace(
        Camera=Camera, PixelFormat=types.SimpleNamespace(RGB=0), __spec__=object()
    )
    monkeypatch.setitem(sys.modules, "pyvirtualcam", fake)
    camera = sink_openers(SIDE, SIDE, "", "", True)["virtual camera"]()
    camera.write(grey(7), 0.0)
    camera.close()
    assert (sent[0] == 7).all()
    assert sent[1] == "closed"
    with pytest.raises(MirageError, match="no virtual camera \\(no device\\)"):
        sink_openers(32, 32, "", "", True)["virtual camera"]()


class Slow:
    """A sink that waits, or breaks at a picture of a value."""

    def __init__(self, go=None, breaks=None):
        self.got, self.closed = [], 0
        self.go, self.breaks = go, breaks

    def write(self, image, time):
        if self.go is not None:
            assert self.go.wait(10)
        if self.breaks == image[0, 0, 0]:
            raise OSError("broken")
        self.got.append(int(image[0, 0, 0]))

    def close(self):
        self.closed += 1


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


def test_a_slow_sink_gets_the_newest_and_holds_nobody_up():
    go = threading.Event()
    sink = Slow(go)
    thread = SinkThread("slow", lambda: sink)
    thread.frame(grey(1))
    wait_for(lambda: thread._newest.look() is None)  # it has the first
    for value in range(2, 100):
        thread.frame(grey(value))
    go.set()
    assert thread.close()
    assert sink.got == [1, 99]
    assert sink.closed == 1
    assert (thread.written, thread.dropped) == (2, 97)


def test_a_broken_sink_is_opened_again():
    sinks: list[Any] = []

    def opened():
        if len(sinks) == 1:
            sinks.append(None)
            raise MirageError("not yet")
        sinks.append(Slow(breaks=2))
        return sinks[-1]

    thread = SinkThread("broken", opened, pauses=(0.01,))
    for value in (1, 2):
        thread.frame(grey(value))
        wait_for(lambda: thread._newest.look() is None)
    wait_for(lambda: thread.failures == 1)
    thread.frame(grey(3))
    wait_for(lambda: thread.failures == 2)
    thread.frame(grey(4))
    wait_for(lambda: thread.written == 2)
    assert thread.close()
    assert sinks[0].got == [1]
    assert sinks[0].closed == 1
    assert sinks[2].got == [4]
    assert sinks[2].closed == 1


def test_outputs_follow_one_stream_at_a_time():
    sink = Slow()
    thread = SinkThread("one", lambda: sink)
    outputs = Outputs([thread])

    def show(stream, value, styled=True):
        outputs.frame(stream, StyledFrame(0, 0.0, grey(value), styled))
        wait_for(lambda: thread._newest.look() is None)

    show("a", 1, styled=False)  # the source itself is not for others
    show("b", 2)
    show("a", 3)
    outputs.release("a")
    show("b", 4)
    outputs.release("b")
    show("a", 5)
    outputs.close()
    assert sink.got == [2, 4, 5]
