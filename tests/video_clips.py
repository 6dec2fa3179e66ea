"""Small video files for the tests, with known pictures and sounds."""

import wave
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RED, GREEN, BLUE, WHITE = (210, 30, 40), (40, 200, 60), (30, 60, 220), (235, 235, 235)


def quadrants(height: int, width: int) -> np.ndarray:
    """Red, green above blue, white: shows how a picture is turned."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = WHITE
    return image


def corner_colours(image: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four quadrants, [4, 3], row by row."""
    rows, columns, _ = image.shape
    picks = [(r * rows // 4, c * columns // 4) for r in (1, 3) for c in (1, 3)]
    return np.array([image[r, c] for r, c in picks], int)


def grey_level(index: int) -> int:
    """Brightness of frame `index` of `counting` clips."""
    return 20 + 12 * (index % 18)


def counting(height: int, width: int) -> Callable[[int], np.ndarray]:
    """Pictures of one grey each, which tell their number."""
    return lambda i: np.full((height, width, 3), grey_level(i), np.uint8)


def number_of(image: np.ndarray) -> int:
    """Inverse of `counting`, modulo 18."""
    return round((float(image.mean()) - 20) / 12)


def write_clip(
    path: Path,
    picture: Callable[[int], np.ndarray],
    frames: int = 12,
    rate: Fraction = Fraction(25),
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int | None = None,
    aspect: Fraction | None = None,
    keyframes: int = 12,
    sound: str | None = None,
    sound_seconds: float = 1.0,
    title: str = "",
    silence: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Writes `picture(0)`, ... by PyAV alone.

    `times` (seconds) makes the frame rate vary; `sound` is an audio codec for a sine
    of 440 Hz, which has no packets in the time span `silence`.
    """
    height, width, _ = picture(0).shape
    with av.open(f"file:{path}", "w") as container:
        container.metadata["title"] = title
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "ultrafast", "bf": "0"}
        stream.codec_context.gop_size = keyframes
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        track: Any = container.add_stream(sound, rate=48000) if sound else None
        if track is not None:
            track.codec_context.layout = "mono"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            if times is not None:
                frame.pts = round(times[index] * 1000)
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            for piece in _sine(track.codec_context, sound_seconds):
                if not silence[0] <= (piece.time or 0.0) < silence[1]:
                    container.mux(track.encode(piece))
            container.mux(track.encode(None))
    return path


def _sine(context: av.AudioCodecContext, seconds: float) -> Iterator[av.AudioFrame]:
    size = context.frame_size or 1024
    for start in range(0, int(seconds * 48000), size):
        phase = 2 * np.pi * 440 / 48000 * np.arange(start, start + size)
        wave_form = (0.3 * np.sin(phase)).astype(np.float32)[None]
        piece = av.AudioFrame.from_ndarray(wave_form, format="flt", layout="mono")
        piece.sample_rate, piece.pts = 48000, start
        piece.time_base = Fraction(1, 48000)
        resampler = av.AudioResampler(format=context.format, layout="mono", rate=48000)
        yield from (out for out in resampler.resample(piece) if out is not None)


def write_empty_clip(path: Path) -> Path:
    """A well-formed file whose video stream holds no frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    return path


def write_sound(path: Path) -> Path:
    """A quarter of a second of silence as WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(4000))
    return path


def damage_packets(path: Path, numbers: Sequence[int]) -> None:
    """Overwrites the given video packets, all but their first 4 bytes, with noise."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    noise = np.random.default_rng(0)
    with open(path, "r+b") as file:
        for number in numbers:
            position, size = packets[number]
            assert position is not None
            file.seek(position)
            file.write(noise.bytes(size))


def read_all(path: Path) -> list[np.ndarray]:
    """All frames of a file, by PyAV alone."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
