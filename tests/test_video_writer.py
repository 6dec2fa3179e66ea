"""A written file plays everywhere, is whole, or does not exist."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from video_clips import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    corner_colours,
    counting,
    number_of,
    quadrants,
    read_all,
    write_clip,
)

from mirage_jax.errors import MirageError
from mirage_jax.staged_file import staged
from mirage_jax.video.writer import VideoWriter

RATE = Fraction(30000, 1001)


def write(path: Path, frames: int = 5, **options: Any) -> VideoWriter:
    with VideoWriter(path, 64, 96, RATE, **options) as writer:
        for index in range(frames):
            writer.write(counting(64, 96)(index))
    return writer


def test_what_is_written_is_what_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "a.mp4"
    writer = write(path, 40)
    assert [number_of(image) for image in read_all(path)] == [i % 18 for i in range(40)]
    assert (writer.frames, writer.audio) == (40, "none")
    assert os.listdir(path.parent) == ["a.mp4"]


def test_the_file_is_of_the_kind_that_every_player_takes(tmp_path):
    write(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == RATE
        frame = next(container.decode(stream))
        assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_colours_survive(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 96, RATE) as writer:
        writer.write(quadrants(64, 96))
    image = read_all(tmp_path / "a.mp4")[0]
    np.testing.assert_allclose(corner_colours(image), [RED, GREEN, BLUE, WHITE], atol=4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_run_that_is_stopped_leaves_no_file(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", 64, 96, RATE) as writer:
        for index in range(30):
            writer.write(counting(64, 96)(index))
        raise error
    assert os.listdir(tmp_path) == []


def test_a_run_that_is_stopped_leaves_the_older_file(tmp_path):
    write(tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 64, 96, RATE):
        raise RuntimeError
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_finished_file_has_no_name_until_it_is_closed(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 96, RATE) as writer:
        writer.write(counting(64, 96)(0))
        writer.finish()
        assert not (tmp_path / "a.mp4").exists()
    assert (tmp_path / "a.mp4").exists()


def test_a_file_without_a_frame_is_refused(tmp_path):
    with pytest.raises(MirageError, match="no frame"):
        write(tmp_path / "a.mp4", 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("height", "width"), [(63, 64), (64, 0)])
def test_odd_sizes_are_refused_before_a_file_is_made(tmp_path, height, width):
    with pytest.raises(ValueError, match="even sides"):
        VideoWriter(tmp_path / "a.mp4", height, width, RATE)
    assert os.listdir(tmp_path) == []


def test_frames_of_another_shape_or_type_are_refused(tmp_path):
    with pytest.raises(ValueError, match="float32"):
        with VideoWriter(tmp_path / "a.mp4", 64, 96, RATE) as writer:
            writer.write(np.zeros((64, 96, 3), np.float32))
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "file" / "a.mp4", tmp_path / "folder.mp4"):
        with pytest.raises(MirageError, match="cannot write") as caught:
            VideoWriter(path, 64, 96, RATE)
        assert str(path) in str(caught.value)


FULL_DISK = """
import resource, sys
import numpy as np
from mirage_jax.errors import MirageError
from mirage_jax.video.writer import VideoWriter

limit, size = int(sys.argv[2]), 256
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
noise = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], size, size, 25) as writer:
        for _ in range(30):
            writer.write(noise.integers(0, 255, (size, size, 3), np.uint8))
except MirageError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("limit", [0, 1000, 500_000])
def test_a_full_disk_is_one_line_and_no_file(tmp_path, limit):
    # The system refuses to let a file grow beyond the limit, as a full disk would.
    path = tmp_path / "a.mp4"
    # Nor could the counts of `make coverage` be written.
    env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(limit)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=env,
    )
    assert result.returncode == 1, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert f"cannot write {path}" in result.stderr
    assert "free some space" in result.stderr
    assert os.listdir(tmp_path) == []


def test_staged_text_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with staged(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyError), staged(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


# Sound.


def sound_of(path: Path) -> tuple[str, np.ndarray, float]:
    """Codec, samples (mono) and time of the first one."""
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        frames = list(container.decode(track))
        samples = [f.to_ndarray().astype(float).mean(axis=0) for f in frames]
        return track.codec_context.name, np.concatenate(samples), frames[0].time or 0.0


@pytest.mark.parametrize(
    ("codec", "ending", "how", "result"),
    [
        ("aac", "mp4", "copied", "aac"),
        ("aac", "ts", "copied", "aac"),
        ("libmp3lame", "avi", "copied", "mp3"),
        ("pcm_s16le", "mov", "encoded as aac", "aac"),
        ("flac", "mkv", "encoded as aac", "aac"),
        ("pcm_mulaw", "avi", "encoded as aac", "aac"),
    ],
)
def test_the_sound_of_the_source_is_kept(tmp_path, codec, ending, how, result):
    source = write_clip(
        tmp_path / f"a.{ending}",
        counting(64, 96),
        frames=30,
        rate=Fraction(25),
        sound=codec,
        sound_seconds=1.2,
    )
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 64, 96, Fraction(25), audio_source=source) as writer:
        for index in range(30):
            writer.write(counting(64, 96)(index))
    assert writer.audio == how
    name, samples, start = sound_of(path)
    assert name.startswith(result)
    assert start == pytest.approx(0, abs=0.06)
    assert len(samples) / 48000 == pytest.approx(1.2, abs=0.08)
    # It still is the same tone: the loudest frequency is 440 Hz.
    spectrum = np.abs(np.fft.rfft(samples[4800:43200]))
    assert np.argmax(spectrum) * 48000 / 38400 == pytest.approx(440, abs=2)
    assert len(read_all(path)) == 30


def test_sound_ends_with_the_picture_and_begins_where_it_does(tmp_path):
    source = write_clip(
        tmp_path / "a.mp4", counting(64, 96), sound="aac", sound_seconds=3
    )
    path = tmp_path / "out.mp4"
    with VideoWriter(
        path, 64, 96, Fraction(25), audio_source=source, audio_start=1.0
    ) as writer:
        for index in range(25):
            writer.write(counting(64, 96)(index))
    _, samples, start = sound_of(path)
    assert start == pytest.approx(0, abs=0.15)
    assert len(samples) / 48000 + start == pytest.approx(1.0, abs=0.08)


def test_a_gap_in_the_sound_stays_where_it_is(tmp_path):
    source = write_clip(
        tmp_path / "a.mkv",
        counting(64, 96),
        sound="pcm_s16le",
        sound_seconds=2,
        silence=(0.5, 1.5),
    )
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 64, 96, 25, audio_source=source) as writer:
        for index in range(50):
            writer.write(counting(64, 96)(index))
    with av.open(str(path)) as container:
        times = [frame.time or 0.0 for frame in container.decode(audio=0)]
    jump = int(np.argmax(np.diff(times)))
    assert times[jump] == pytest.approx(0.5, abs=0.06)
    assert times[jump + 1] == pytest.approx(1.5, abs=0.06)


def test_a_source_without_sound_is_fine(tmp_path):
    source = write_clip(tmp_path / "a.mp4", counting(64, 96))
    assert write(tmp_path / "out.mp4", audio_source=source).audio == "none"
