"""Does a stream drift? Runs a model for 10,000 frames and more and looks for change.

    python -m experiments.drift --clips=path/to/held_out_clips \
        --modes=merged/1,lagged/1,lagged/2,free/lagged/1

Every style runs on held-out clips that are looped to and fro, and under a camera that
never moves, in every mode: commit/steps, or free/commit/steps, where the source is gone
after some frames. Nothing is kept of a frame but its numbers; docs/drift.md explains
them. Writes one JSON file, a plot and a sheet of frames a mode, prints a table, and
exits with 1 where a bar is missed. Names without a mode are those of the first mode.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from experiments.command import command
from experiments.line_plot import draw_lines
from experiments.long_streams import WINDOW, LongStreams, load_long_streams
from mirage_jax.data.teachers import Style
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.checks import Check
from mirage_jax.evaluation.drift import Measured
from mirage_jax.evaluation.endless import LongStream
from mirage_jax.evaluation.pictures import draw_grid, save_picture
from mirage_jax.evaluation.quality import Case
from mirage_jax.evaluation.verdict import (
    LEAST_LOOPS,
    drift_checks,
    drift_values,
    flicker_values,
    free_checks,
    free_values,
    loop_means,
    to_results,
)
from mirage_jax.modes import Mode, parse_mode
from mirage_jax.results import write_results

_MODES = flags.DEFINE_list("modes", ["merged/1", "lagged/1"], "As commit/steps.")
_FRAMES = flags.DEFINE_integer("frames", 10_000, "Frames of a stream.")
_FREE_FRAMES = flags.DEFINE_integer("free_frames", 1000, "Frames of a free run.")
_FREE_AFTER = flags.DEFINE_integer("free_after", 48, "Frames before its source goes.")
_OUT = flags.DEFINE_string("out", "docs/results/drift.json", "Where results go.")
_PICTURES = flags.DEFINE_string(
    "pictures", "docs/pictures", "Folder for plots and sheets; empty for none."
)

MOMENTS = (1, 10, 100, 1000, 10_000, 100_000)
_CELL = 96  # side of a picture in the sheet


def drift() -> bool:
    """Runs what the flags ask for; whether a bar was missed."""
    begin = time.perf_counter()
    modes = [parse_mode(text) for text in dict.fromkeys(_MODES.value)]
    window = WINDOW.value
    _check_flags(window)
    streams = load_long_streams()
    frames = -(-_FRAMES.value // window) * window
    print(f"{len(streams.cases)} streams of {frames} frames, {len(modes)} modes")

    values: dict[str, float] = {"frames": frames} | _codec_values(streams)
    checks: list[Check] = []
    for number, mode in enumerate(modes):
        suffix = f"/{mode.name}" if number else ""
        runs = _run(streams, mode, frames)
        for place, style in enumerate(streams.styles):
            of_style = [run for case, run in runs.items() if case.style == place]
            if of_style:
                path = f"{style.name}{suffix}"
                found, bars = _judge(of_style, mode, style, path, window)
                values |= found
                checks += bars
        if _PICTURES.value:
            _draw(Path(_PICTURES.value), mode, streams.styles, runs, window)
        # As of now: a run that is cut off loses its last mode alone.
        setup = streams.setup | {
            "modes": [mode.name for mode in modes[: number + 1]],
            "frames": frames,
            "free_frames": _FREE_FRAMES.value,
            "free_after": _FREE_AFTER.value,
            "interval": "95 %, block bootstrap over the loops after the first",
            "seconds": round(time.perf_counter() - begin, 1),
        }
        passed = {f"check/{check.name}": float(check.passed) for check in checks}
        results = to_results(values | passed)
        write_results(_OUT.value, "experiments/drift.py", setup, results)
        print(f"{mode.name} done after {time.perf_counter() - begin:.0f} s")

    missed = [check for check in checks if not check.passed]
    for check in missed:
        print(check)
    cleared = len(checks) - len(missed)
    print(f"{cleared} of {len(checks)} bars cleared; results in {_OUT.value}")
    return bool(missed)


def _check_flags(window: int) -> None:
    least = LEAST_LOOPS * window
    if _FRAMES.value < least:
        raise MirageError(
            f"--frames={_FRAMES.value}: a slope needs {LEAST_LOOPS} loops of "
            f"--window={window}, which are {least} frames"
        )
    if not 8 <= _FREE_AFTER.value < min(window, _FREE_FRAMES.value):
        raise MirageError(
            f"--free_after={_FREE_AFTER.value}: take from 8 to less than --window and "
            "--free_frames"
        )


def _run(streams: LongStreams, mode: Mode, frames: int) -> dict[Case, LongStream]:
    cases = streams.cases
    if mode.free:
        # What an effect should make of a source that is gone, nobody knows.
        cases = [c for c in cases if streams.styles[c.style].kind != "memory"]
        if not cases:
            raise MirageError(f"mode {mode.name} needs a style of one frame: name one")
        frames = _FREE_FRAMES.value
    moments = [moment for moment in MOMENTS if moment <= frames]
    runs: dict[Case, LongStream] = {}
    for part in streams.parts(cases):
        found = streams.endless.run(
            mode, part, streams.loops, frames, _FREE_AFTER.value, moments
        )
        runs |= dict(zip(part, found, strict=True))
    return runs


def _codec_values(streams: LongStreams) -> dict[str, float]:
    """How much the teacher's own pictures flicker once the codec has made them."""
    measured: dict[Case, Measured] = {}
    for part in streams.parts(streams.cases):
        found = streams.endless.through_codec(part, streams.loops)
        measured |= dict(zip(part, found, strict=True))
    values: dict[str, float] = {}
    for place, style in enumerate(streams.styles):
        of_style = [one for case, one in measured.items() if case.style == place]
        if flicker := flicker_values(_beside(of_style)):
            values[f"flicker_codec/{style.name}"] = flicker["flicker"]
    return values


def _beside(streams: Sequence[Measured]) -> Measured:
    """Numbers of several streams, [n, B]."""
    together: Measured = jax.tree.map(lambda *x: np.stack(x, axis=1), *streams)
    return together


def _judge(
    runs: Sequence[LongStream], mode: Mode, style: Style, path: str, window: int
) -> tuple[dict[str, float], list[Check]]:
    """Values and bars of one style in one mode, under their full names."""
    measured = _beside([run.measured for run in runs])
    if mode.free:
        values = free_values(measured, _FREE_AFTER.value)
        checks = free_checks(values, path)
    else:
        values = drift_values(measured, window, style.history)
        checks = drift_checks(values, path)
    return {f"{name}/{path}": value for name, value in values.items()}, checks


def _draw(
    folder: Path,
    mode: Mode,
    styles: Sequence[Style],
    runs: dict[Case, LongStream],
    window: int,
) -> None:
    """PSNR of every style over time, and frames of each style's first clip."""
    lines, rows = [], []
    for place, style in enumerate(styles):
        of_style = [run for case, run in runs.items() if case.style == place]
        if not of_style:
            continue
        psnr = np.mean([run.measured.psnr for run in of_style], axis=0)
        # Frame by frame where the fall is what counts, else loop by loop.
        step = 1 if mode.free else window
        points = loop_means(psnr, step)
        across = [step * (number + 1) for number in range(len(points))]
        lines.append((style.name, list(zip(across, points.tolist(), strict=True))))
        rows.append((style.name, list(of_style[0].pictures)))
    slug = mode.name.replace("/", "_")
    plot = draw_lines(lines, f"PSNR in dB, {mode.name}", "frames")
    save_picture(folder / f"drift_{slug}.png", plot)
    columns = [f"frame {moment:,}" for moment in MOMENTS[: len(rows[0][1])]]
    sheet = draw_grid(columns, rows, cell=_CELL)
    save_picture(folder / f"drift_{slug}.webp", sheet, limit=60_000)


main = command("drift", drift)

if __name__ == "__main__":
    app.run(main)
