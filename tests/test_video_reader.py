"""Frames come upright, in order, with their times, whatever the file is like."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_clips import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    corner_colours,
    counting,
    damage_packets,
    number_of,
    quadrants,
    write_clip,
    write_empty_clip,
    write_sound,
)

from mirage_jax.errors import MirageError
from mirage_jax.video.constant_rate import LONGEST_GAP, constant_rate
from mirage_jax.video.orientation import Orientation, read_orientation
from mirage_jax.video.reader import Frame, VideoReader


def numbers(path: Path) -> list[int]:
    with VideoReader(path) as reader:
        return [number_of(frame.image) for frame in reader]


def test_frames_arrive_in_order_with_their_times(tmp_path):
    path = write_clip(tmp_path / "a.mp4", counting(48, 64), rate=Fraction(30000, 1001))
    with VideoReader(path) as reader:
        frames = list(reader)
    assert [number_of(f.image) for f in frames] == list(range(12))
    assert reader.info.rate == Fraction(30000, 1001)
    assert reader.info.frames == 12
    assert not reader.info.has_audio
    assert reader.skipped == 0
    np.testing.assert_allclose(
        [f.time for f in frames], np.arange(12) * 1001 / 30000, atol=1e-4
    )
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].image.dtype == np.uint8


@pytest.mark.parametrize(
    ("codec", "pixels", "ending"),
    [
        ("libx264", "yuv420p", "mp4"),
        ("libx264", "yuv444p", "mkv"),
        ("libx264", "yuv420p10le", "mp4"),
        ("mjpeg", "yuvj420p", "avi"),
        ("png", "rgba", "mov"),
        ("ffv1", "yuv422p", "mkv"),
        ("mpeg4", "yuv420p", "mp4"),
    ],
)
def test_any_pixel_format_gives_the_same_colours(tmp_path, codec, pixels, ending):
    path = tmp_path / f"clip.{ending}"
    write_clip(path, lambda i: quadrants(64, 96), frames=2, codec=codec, pixels=pixels)
    with VideoReader(path) as reader:
        image = next(iter(reader)).image
    np.testing.assert_allclose(corner_colours(image), [RED, GREEN, BLUE, WHITE], atol=8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (65, 33), (2, 200)])
def test_odd_and_tiny_sizes_are_read(tmp_path, height, width):
    path = write_clip(
        tmp_path / "a.mp4", counting(height, width), frames=3, pixels="yuv444p"
    )
    with VideoReader(path) as reader:
        assert {f.image.shape for f in reader} == {(height, width, 3)}


def test_a_single_picture_is_a_clip_of_one_frame(tmp_path):
    path = write_clip(
        tmp_path / "a.png", counting(48, 64), frames=1, codec="png", pixels="rgb24"
    )
    assert numbers(path) == [0]


@pytest.mark.parametrize(
    ("rotation", "colours"),
    [
        (0, (RED, GREEN, BLUE, WHITE)),
        (90, (GREEN, WHITE, RED, BLUE)),  # counter-clockwise
        (-90, (BLUE, RED, WHITE, GREEN)),
        (180, (WHITE, BLUE, GREEN, RED)),
    ],
)
def test_portrait_video_is_turned_upright(tmp_path, rotation, colours):
    path = tmp_path / "phone.mp4"
    write_clip(path, lambda i: quadrants(48, 96), frames=2, rotation=rotation)
    with VideoReader(path) as reader:
        image = next(iter(reader)).image
    assert image.shape == ((96, 48, 3) if rotation in (90, -90) else (48, 96, 3))
    np.testing.assert_allclose(corner_colours(image), colours, atol=8)


def test_every_display_matrix_moves_pixels_as_the_standard_says():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for swap, one, two in product((False, True), (1, -1), (1, -1)):
        matrix = np.zeros((3, 3), np.int32)
        matrix[2, 2] = 1 << 30
        if swap:  # (p, q) -> (c q, b p)
            matrix[0, 1], matrix[1, 0] = one << 16, two << 16
        else:  # (p, q) -> (a p, d q)
            matrix[0, 0], matrix[1, 1] = one << 16, two << 16
        turned = read_orientation(matrix.tobytes()).apply(image)
        for q, p in product(range(2), range(3)):
            x, y = (two * q, one * p) if swap else (one * p, two * q)
            # A mirrored axis runs from -(n - 1) to 0: shifted into the picture, as
            # players do, that is index n - 1 + x, or x - 1 from the end.
            row = y if (one if swap else two) > 0 else y - 1
            column = x if (two if swap else one) > 0 else x - 1
            np.testing.assert_array_equal(turned[row, column], image[q, p])
    assert read_orientation(None) == Orientation() == read_orientation(bytes(36))


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    path = tmp_path / "wide.mp4"
    write_clip(path, lambda i: quadrants(64, 64), frames=1, aspect=Fraction(2))
    with VideoReader(path) as reader:
        assert next(iter(reader)).image.shape == (64, 128, 3)


def test_damaged_frames_are_skipped_and_counted(tmp_path):
    path = write_clip(
        tmp_path / "a.avi", counting(48, 64), codec="mjpeg", pixels="yuvj420p"
    )
    damage_packets(path, (4, 5))
    with VideoReader(path) as reader:
        frames = list(reader)
    assert [number_of(f.image) for f in frames] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert reader.skipped == 2
    # Resampling fills the gap, so that picture and sound stay together.
    even = [number_of(f.image) for f in constant_rate(frames, reader.info.rate)]
    assert even == [0, 1, 2, 3, 3, 3, 6, 7, 8, 9, 10, 11]


def test_a_damaged_key_frame_of_h264_is_not_fatal(tmp_path):
    path = write_clip(tmp_path / "a.mp4", counting(48, 64), keyframes=4)
    damage_packets(path, (4,))
    with VideoReader(path) as reader:
        shown = [number_of(f.image) for f in reader]
    assert shown[:4] == [0, 1, 2, 3]
    assert shown[-4:] == [8, 9, 10, 11]


def test_a_file_cut_off_in_the_middle_gives_what_it_has(tmp_path):
    path = write_clip(tmp_path / "a.mkv", counting(48, 64), keyframes=1)
    with av.open(str(path)) as container:
        ninth = [packet.pos for packet in container.demux(video=0)][8] or 0
    path.write_bytes(path.read_bytes()[: ninth + 20])
    shown = numbers(path)
    assert shown[:8] == list(range(8))
    assert len(shown) <= 9


def test_uneven_times_are_kept_by_the_reader_and_evened_out(tmp_path):
    times = [0, 0.04, 0.08, 0.2, 0.24, 0.44, 0.48]
    path = write_clip(tmp_path / "vfr.mkv", counting(48, 64), frames=7, times=times)
    with VideoReader(path) as reader:
        frames = list(reader)
    np.testing.assert_allclose([f.time for f in frames], times, atol=2e-3)
    even = list(constant_rate(frames, Fraction(25)))
    shown = [number_of(f.image) for f in even]
    assert shown == [0, 1, 2, 2, 2, 3, 4, 4, 4, 4, 4, 5, 6]
    assert [f.time for f in even] == [k / 25 for k in range(13)]


@given(
    gaps=st.lists(st.floats(0, 0.5), max_size=30),
    rate=st.sampled_from([Fraction(24), Fraction(30000, 1001), Fraction(5)]),
    start=st.floats(-5, 5),
)
def test_each_tick_shows_the_frame_that_is_due(gaps, rate, start):
    times = np.cumsum([0.0, *gaps])
    frames = [
        Frame(np.full((1, 1, 3), i, np.uint8), float(start + t))
        for i, t in enumerate(times)
    ]
    for k, frame in enumerate(constant_rate(frames, rate)):
        shown = int(frame.image[0, 0, 0])
        assert frame.time == pytest.approx(k / rate)
        assert times[shown] <= (k + 0.5) / rate + 1e-6
        if shown + 1 < len(times):
            assert times[shown + 1] >= (k + 0.5) / rate - 1e-6
    assert shown == len(times) - 1
    assert k == pytest.approx(times[-1] * rate, abs=1)


@pytest.mark.parametrize("jump", [-3.0, LONGEST_GAP + 1, 36000.0])
def test_a_broken_clock_neither_stops_nor_floods(jump):
    times = [0.0, 0.1, 0.2, 0.2 + jump, 0.3 + jump]
    frames = [Frame(np.full((1, 1, 3), i, np.uint8), t) for i, t in enumerate(times)]
    shown = [int(f.image[0, 0, 0]) for f in constant_rate(frames, Fraction(10))]
    assert shown == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["garbage.mp4", "empty.mp4", "folder", "none.mp4"])
def test_what_is_no_video_is_named_in_one_line(tmp_path, name):
    (tmp_path / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(MirageError) as caught:
        list(VideoReader(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_strange_name_and_a_title_that_is_no_utf8_do_no_harm(tmp_path):
    path = write_clip(
        tmp_path / "http:a b%d?.mp4", counting(48, 64), title="Gr\u00fc\u00df"
    )
    content = path.read_bytes()
    title = "Gr\u00fc\u00df".encode()
    assert title in content
    path.write_bytes(content.replace(title, b"Gr\xfc\xdfab"))
    assert numbers(path) == list(range(12))


def test_a_file_with_sound_alone_is_named(tmp_path):
    with pytest.raises(MirageError, match="no video, only audio"):
        VideoReader(write_sound(tmp_path / "song.wav"))


def test_a_video_without_frames_is_named(tmp_path):
    with pytest.raises(MirageError, match="has no "):
        list(VideoReader(write_empty_clip(tmp_path / "a.mov")))


def test_a_video_of_damaged_frames_alone_is_named(tmp_path):
    path = write_clip(
        tmp_path / "a.avi", counting(48, 64), codec="mjpeg", pixels="yuvj420p"
    )
    damage_packets(path, range(12))
    with pytest.raises(MirageError, match="12 damaged"):
        list(VideoReader(path))
