"""From a video file to restyled files: what main.py runs.

The loop keeps the device busy: frame i + 1 is handed to it before frame i is fetched
and encoded, and decoding of the source runs between the two.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.device_memory import exhaustion_explained, peak_memory
from mirage_jax.errors import MirageError
from mirage_jax.schedule import PromptSchedule, parse_schedule
from mirage_jax.stream import StreamConfig
from mirage_jax.stream_driver import StreamDriver, time_frames
from mirage_jax.text import check_prompt, encode_text
from mirage_jax.video.constant_rate import constant_rate
from mirage_jax.video.frame_size import check_fit, fit_frame, parse_size
from mirage_jax.video.reader import VideoReader
from mirage_jax.video.sheet import ContactSheet
from mirage_jax.video.staged_file import staged
from mirage_jax.video.writer import VideoWriter
from mirage_jax.weights import Model

OUTPUTS = ("styled.mp4", "compare.mp4", "contact_sheet.png", "summary.json")
PRECISIONS = ("auto", "bfloat16", "float32")
FRAME_TIME = (
    "uint8 frame on the device to uint8 frame on the device, batch 1, all steps with "
    "encode and decode, one frame at a time; measured apart, after warm-up, on the "
    "clip's own frames"
)
_HEAD_BYTES = 64 << 20  # frames kept for the timing pass

Progress = Callable[[Iterable[Any], int | None], Iterable[Any]]


class Driver(Protocol):
    """What `render` needs of a stream: see `StreamDriver`."""

    def open(self, prompt: Float[np.ndarray, " 384"], seed: int) -> None: ...

    def set_prompt(self, prompt: Float[np.ndarray, " 384"]) -> None: ...

    def step(self, source: UInt8[np.ndarray, "1 H W 3"]) -> UInt8[Array, "1 H W 3"]: ...


@dataclass(frozen=True)
class RenderSettings:
    """One run. The fields are those of configs/render.py, which describes them."""

    source: str
    out: str
    prompt: str
    schedule: str
    model: str
    size: str
    fit: str
    steps: int
    commit: str
    precision: str
    seed: int
    fps: float
    max_frames: int
    cpu_max_frames: int
    audio: bool
    compare: bool
    sheet_columns: int
    timing_seconds: float

    def __post_init__(self) -> None:
        check_fit(self.fit)
        parse_size(self.size)
        for prompt in self.prompts().prompts:
            check_prompt(prompt)
        if self.precision not in PRECISIONS:
            raise MirageError(
                f"precision {self.precision!r} is unknown: choose one of "
                f"{', '.join(PRECISIONS)}"
            )
        for name, low, high in (
            ("seed", 0, 2**32 - 1),
            ("fps", 0, 240),
            ("max_frames", 0, 10**9),
            ("cpu_max_frames", 0, 10**9),
            ("sheet_columns", 1, 24),
            ("timing_seconds", 0, 600),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise MirageError(
                    f"{name} {value} is out of range: take {low} to {high}"
                )
        source = Path(self.source).resolve()
        if source in [(Path(self.out) / name).resolve() for name in OUTPUTS]:
            raise MirageError(
                f"source {self.source} would be overwritten by the result: choose "
                "another --config.out"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RenderSettings:
        """Builds settings from a config's values; unknown and missing names fail."""
        names = {field.name for field in fields(cls)}
        if wrong := sorted(names.symmetric_difference(values)):
            raise MirageError(
                f"this config is not one for main.py: {', '.join(wrong)} unknown or "
                "missing; compare configs/render.py"
            )
        return cls(**values)

    def prompts(self) -> PromptSchedule:
        """The schedule, with cleaned prompts still to be checked."""
        return parse_schedule(self.schedule, self.prompt)

    def stream(self, platform: str) -> StreamConfig:
        """The stream's configuration on a device of this platform."""
        height, width = parse_size(self.size)
        dtype = self.precision
        if dtype == "auto":  # CPUs emulate bfloat16, slowly
            dtype = "float32" if platform == "cpu" else "bfloat16"
        return StreamConfig(
            height=height,
            width=width,
            steps=self.steps,
            commit=self.commit,
            dtype=dtype,
        )

    def frame_limit(self, platform: str) -> int | None:
        """Frames to render at most on this platform; None for all."""
        limits = [self.max_frames]
        if platform == "cpu":
            limits.append(self.cpu_max_frames)
        return min((limit for limit in limits if limit), default=None)


def render(
    settings: RenderSettings,
    model: Model,
    driver: Driver | None = None,
    encode: Callable[[Sequence[str]], Float[np.ndarray, "n 384"]] = encode_text,
    progress: Progress = lambda frames, total: frames,
) -> dict[str, Any]:
    """Restyles `settings.source` and writes OUTPUTS into `settings.out`.

    The files get their names together at the end, or none of them does.

    Args:
      settings: what to do.
      model: configuration, weights and their hash.
      driver: runs the stream; made from `model` if None.
      encode: prompts to vectors.
      progress: wraps the iteration over frames, given the expected count or None.

    Returns:
      The summary, as written to summary.json.

    Raises:
      MirageError: anything the user can cure.
    """
    begin = time.perf_counter()
    device = jax.local_devices()[0]
    config = settings.stream(device.platform)
    height, width = config.height, config.width
    what = f"{height}x{width} with model {settings.model}"
    with ExitStack() as stack:
        stack.enter_context(exhaustion_explained(what))
        reader = stack.enter_context(VideoReader(settings.source))
        rate = reader.info.rate
        if settings.fps:
            rate = Fraction(str(settings.fps)).limit_denominator(1001)
        limit = settings.frame_limit(device.platform)
        frames = itertools.islice(_fitted(reader, rate, settings, config), limit)
        room = max(1, min(64, _HEAD_BYTES // (height * width * 3)))
        head = list(itertools.islice(frames, room))

        schedule = settings.prompts()
        vectors = encode(schedule.prompts)
        driver = driver or StreamDriver(model, config)
        compile_seconds, times = _measure(driver, vectors[0], head, settings)

        out = Path(settings.out)
        start = reader.start or 0.0
        styled_file = stack.enter_context(
            VideoWriter(
                out / "styled.mp4",
                height,
                width,
                rate,
                audio_source=settings.source if settings.audio else None,
                audio_start=start,
            )
        )
        compare_file = None
        if settings.compare:
            compare_file = stack.enter_context(
                VideoWriter(out / "compare.mp4", height, 2 * width, rate)
            )
        sheet = ContactSheet(settings.sheet_columns)

        loop_begin = time.perf_counter()
        total = _expected(reader, rate, limit)
        clip = progress(itertools.chain(head, frames), total)
        for index, (source, styled) in enumerate(
            _stream(driver, clip, schedule, vectors, rate, settings.seed)
        ):
            styled_file.write(styled)
            if compare_file is not None:
                compare_file.write(np.concatenate([source, styled], axis=1))
            sheet.add(source, styled, index / rate)
        styled_file.finish()
        if compare_file is not None:
            compare_file.finish()
        loop_seconds = time.perf_counter() - loop_begin

        count = styled_file.frames
        peak, peak_of = peak_memory()
        p50, p95, p99 = 1000 * np.percentile(times, (50, 95, 99))
        summary = {
            "source": settings.source,
            "out": settings.out,
            "frames": count,
            "skipped_frames": reader.skipped,
            "frames_per_second": float(rate),
            "height": height,
            "width": width,
            "fit": settings.fit,
            "audio": styled_file.audio,
            "prompts": [
                {"seconds": seconds, "prompt": prompt}
                for seconds, prompt in zip(
                    schedule.times, schedule.prompts, strict=True
                )
            ],
            "model": settings.model,
            "weights_sha256": model.sha256,
            "steps": settings.steps,
            "commit": settings.commit,
            "precision": config.dtype,
            "seed": settings.seed,
            "frame_ms": {"p50": p50, "p95": p95, "p99": p99, "frames": len(times)},
            "frame_ms_means": FRAME_TIME,
            "compile_seconds": compile_seconds,
            "wall_seconds": time.perf_counter() - begin,
            "fps": count / loop_seconds,
            "peak_memory_bytes": peak,
            "peak_memory_of": peak_of,
            "device": device.device_kind,
            "platform": device.platform,
            "jax": jax.__version__,
        }
        sheet.save(out / "contact_sheet.png")
        with staged(out / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _fitted(
    reader: VideoReader,
    rate: Fraction,
    settings: RenderSettings,
    config: StreamConfig,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    for frame in constant_rate(reader, rate):
        yield fit_frame(frame.image, config.height, config.width, settings.fit)


def _expected(reader: VideoReader, rate: Fraction, limit: int | None) -> int | None:
    duration = reader.info.duration
    if duration is None:
        return limit
    count = max(1, round(duration * rate))
    return min(count, limit) if limit else count


def _measure(
    driver: Driver,
    prompt: Float[np.ndarray, " 384"],
    head: Sequence[UInt8[np.ndarray, "H W 3"]],
    settings: RenderSettings,
) -> tuple[float, list[float]]:
    """Compiles, then times frames: (seconds to the first frame, frame times)."""
    begin = time.perf_counter()
    driver.open(prompt, settings.seed)
    jax.block_until_ready(driver.step(head[0][None]))
    compile_seconds = time.perf_counter() - begin
    return compile_seconds, time_frames(driver, head, settings.timing_seconds)


def _stream(
    driver: Driver,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    schedule: PromptSchedule,
    vectors: Float[np.ndarray, "n 384"],
    rate: Fraction,
    seed: int,
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]]:
    """Yields (source, styled), always one frame behind what the device works on."""
    driver.open(vectors[0], seed)
    current = 0
    waiting: tuple[np.ndarray, Array] | None = None
    for index, source in enumerate(frames):
        wanted = schedule.index_at(index / rate)
        if wanted != current:
            driver.set_prompt(vectors[wanted])
            current = wanted
        styled = driver.step(source[None])
        styled.copy_to_host_async()
        if waiting is not None:
            yield waiting[0], np.asarray(waiting[1])[0]
        waiting = source, styled
    if waiting is not None:
        yield waiting[0], np.asarray(waiting[1])[0]
