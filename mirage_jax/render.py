"""From a video file to restyled files: what main.py runs.

The loop keeps the device busy: frame i + 1 is handed to it before frame i is fetched
and encoded, and decoding of the source runs between the two.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.device_memory import exhaustion_explained, peak_memory
from mirage_jax.precision import precision_of
from mirage_jax.profiling import Profile
from mirage_jax.render_settings import RenderSettings
from mirage_jax.schedule import PromptSchedule
from mirage_jax.staged_file import staged
from mirage_jax.stream_config import StreamConfig
from mirage_jax.stream_driver import Driver, StreamDriver, time_frames
from mirage_jax.strength import with_strength
from mirage_jax.text import encode_text
from mirage_jax.video.constant_rate import constant_rate
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.reader import VideoReader
from mirage_jax.video.sheet import ContactSheet
from mirage_jax.video.writer import VideoWriter
from mirage_jax.weights import Model

FRAME_TIME = (
    "uint8 frame on the device to uint8 frame on the device, batch 1, all steps with "
    "encode and decode, one frame at a time; measured apart, after warm-up, on the "
    "clip's own frames"
)
_HEAD_BYTES = 64 << 20  # frames kept for the timing pass

Progress = Callable[[Iterable[Any], int | None], Iterable[Any]]


def render(
    settings: RenderSettings,
    model: Model,
    driver: Driver | None = None,
    encode: Callable[[Sequence[str]], Float[np.ndarray, "n 384"]] = encode_text,
    progress: Progress = lambda frames, total: frames,
) -> dict[str, Any]:
    """Restyles `settings.source` and writes the files into `settings.out`.

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
        profile = stack.enter_context(Profile(settings.profile_dir, "frame"))
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

        driver = driver or StreamDriver(model, config)
        compile_seconds, times = _measure(driver, vectors[0], head, settings)

        loop_begin = time.perf_counter()
        total = _expected(reader, rate, limit)
        clip = progress(itertools.chain(head, frames), total)
        for index, (source, styled) in enumerate(
            _stream(driver, clip, schedule, vectors, rate, settings.seed, profile)
        ):
            styled = with_strength(source, styled, settings.strength)
            styled_file.write(styled)
            if compare_file is not None:
                compare_file.write(np.concatenate([source, styled], axis=1))
            sheet.add(source, styled, float(index / rate))
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
            "strength": settings.strength,
            "model": settings.model,
            "weights_sha256": model.sha256,
            "steps": settings.steps,
            "commit": config.commit,
            "precision": precision_of(config),
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
    profile: Profile,
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]]:
    """Yields (source, styled), always one frame behind what the device works on."""
    driver.open(vectors[0], seed)
    current = 0
    waiting: tuple[np.ndarray, Array] | None = None
    for index, source in enumerate(frames):
        wanted = schedule.index_at(float(index / rate))
        if wanted != current:
            driver.set_prompt(vectors[wanted])
            current = wanted
        styled = profile(index, driver.step, source[None])
        styled.copy_to_host_async()
        if waiting is not None:
            yield waiting[0], np.asarray(waiting[1])[0]
        waiting = source, styled
    if waiting is not None:
        yield waiting[0], np.asarray(waiting[1])[0]
