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
from mirage_jax.data.prompts import HELD_OUT_PROMPTS, PROMPTS
from mirage_jax.data.teachers import Style, find_style, shipped_styles
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.checks import Check
from mirage_jax.evaluation.clips import load_clips, to_and_fro
from mirage_jax.evaluation.drift import Measured
from mirage_jax.evaluation.endless import Endless, LongStream, Loops, Mode, parse_mode
from mirage_jax.evaluation.pictures import draw_grid, save_picture
from mirage_jax.evaluation.quality import LOOP_MULTIPLE, Case
from mirage_jax.evaluation.summary import EARLY
from mirage_jax.evaluation.verdict import (
    LEAST_LOOPS,
    drift_checks,
    drift_values,
    free_checks,
    free_values,
    loop_means,
    to_results,
)
from mirage_jax.precision import PRECISIONS, fields_of, precision_of
from mirage_jax.results import device_setup, write_results
from mirage_jax.stream import StreamConfig
from mirage_jax.styler import load_styler
from mirage_jax.text import encode_text
from mirage_jax.weights import load_model

_MODEL = flags.DEFINE_string("model", "default", "Name of a shipped model or a folder.")
_STYLER = flags.DEFINE_string(
    "styler", None, "Weights of the style network; without them no neural styles."
)
_CLIPS = flags.DEFINE_string("clips", None, "Folder of clips never trained on.")
_LOOPS = flags.DEFINE_integer("loops", 2, "Looped clips, one a file.")
_HELD = flags.DEFINE_bool("held", True, "Also a camera that shows one frame for ever.")
_SIZE = flags.DEFINE_integer("size", 512, "Side of the square frames.")
_STYLES = flags.DEFINE_list("styles", [], "Names of styles; all by default.")
_WORDING = flags.DEFINE_enum(
    "wording", "held_out", ["held_out", "training"], "Which prompts ask for the style."
)
_MODES = flags.DEFINE_list("modes", ["merged/1", "lagged/1"], "As commit/steps.")
_FRAMES = flags.DEFINE_integer("frames", 10_000, "Frames of a stream.")
_WINDOW = flags.DEFINE_integer("window", 200, "Frames of a loop; a multiple of 8.")
_FREE_FRAMES = flags.DEFINE_integer("free_frames", 1000, "Frames of a free run.")
_FREE_AFTER = flags.DEFINE_integer("free_after", 48, "Frames before its source goes.")
_BATCH = flags.DEFINE_integer("batch", 16, "Streams that run side by side.")
_PRECISION = flags.DEFINE_enum(
    "precision", "bfloat16", PRECISIONS, "Of the stream; 8 bits of its dense layers."
)
_ANCHOR = flags.DEFINE_bool("anchor", False, "Keep the first frame in its slot.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of noise and corruption.")
_OUT = flags.DEFINE_string("out", "docs/results/drift.json", "Where results go.")
_PICTURES = flags.DEFINE_string(
    "pictures", "docs/pictures", "Folder for plots and sheets; empty for none."
)

MOMENTS = (1, 10, 100, 1000, 10_000, 100_000)
_CELL = 128  # side of a picture in the sheet


def drift() -> bool:
    """Runs what the flags ask for; whether a bar was missed."""
    begin = time.perf_counter()
    _check_flags()
    modes = [parse_mode(text) for text in dict.fromkeys(_MODES.value)]
    model = load_model(_MODEL.value)
    styles = _chosen_styles()
    wordings = HELD_OUT_PROMPTS if _WORDING.value == "held_out" else PROMPTS
    wording = {style.name: wordings[style.name][0] for style in styles}
    names, loops = _load()
    cases = [Case(s, c) for s in range(len(styles)) for c in range(len(loops))]
    # Layers in a loop: at this batch it costs no speed and compiles much sooner.
    stream = StreamConfig(
        height=_SIZE.value,
        width=_SIZE.value,
        batch=min(_BATCH.value, len(cases)),
        anchor=_ANCHOR.value,
        unroll=False,
        **fields_of(_PRECISION.value, jax.default_backend()),
    )
    prompts = encode_text(list(wording.values()))
    endless = Endless(model, stream, styles, prompts, _WINDOW.value, _SEED.value)
    frames = -(-_FRAMES.value // _WINDOW.value) * _WINDOW.value
    print(f"{len(cases)} streams of {frames} frames in each of {len(modes)} modes")

    values: dict[str, float] = {"frames": frames}
    checks: list[Check] = []
    for number, mode in enumerate(modes):
        suffix = f"/{mode.name}" if number else ""
        runs = _run(endless, mode, cases, loops, frames)
        for place, style in enumerate(styles):
            of_style = [run for case, run in runs.items() if case.style == place]
            if not of_style:
                continue
            found, bars = _judge(of_style, mode, style, f"{style.name}{suffix}")
            values |= found
            checks += bars
        if _PICTURES.value:
            _draw(Path(_PICTURES.value), mode, styles, runs)
        print(f"{mode.name} done after {time.perf_counter() - begin:.0f} s")

    values |= {f"check/{check.name}": float(check.passed) for check in checks}
    setup = device_setup() | {
        "model": _MODEL.value,
        "weights_sha256": model.sha256,
        "precision": precision_of(stream),
        "height": stream.height,
        "width": stream.width,
        "styles": {style.name: style.kind for style in styles},
        "clips": names,
        "wording": _WORDING.value,
        "prompts": wording,
        "modes": [mode.name for mode in modes],
        "frames": frames,
        "window": _WINDOW.value,
        "free_frames": _FREE_FRAMES.value,
        "free_after": _FREE_AFTER.value,
        "anchor": stream.anchor,
        "batch": stream.batch,
        "seed": _SEED.value,
        "interval": "95 %, block bootstrap over the loops after the first",
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_results(_OUT.value, "experiments/drift.py", setup, to_results(values))
    missed = [check for check in checks if not check.passed]
    for check in missed:
        print(check)
    passed = len(checks) - len(missed)
    print(f"{passed} of {len(checks)} bars cleared; results in {_OUT.value}")
    return bool(missed)


def _check_flags() -> None:
    if _WINDOW.value < EARLY[1] or _WINDOW.value % LOOP_MULTIPLE:
        raise MirageError(
            f"--window={_WINDOW.value}: take a multiple of {LOOP_MULTIPLE} from 32 on"
        )
    least = LEAST_LOOPS * _WINDOW.value
    if _FRAMES.value < least:
        raise MirageError(
            f"--frames={_FRAMES.value}: a slope needs {LEAST_LOOPS} loops of "
            f"--window={_WINDOW.value}, which are {least} frames"
        )
    if not 8 <= _FREE_AFTER.value < min(_WINDOW.value, _FREE_FRAMES.value):
        raise MirageError(
            f"--free_after={_FREE_AFTER.value}: take from 8 to less than --window and "
            "--free_frames"
        )
    for flag in (_BATCH, _LOOPS):
        if flag.value < 1:
            raise MirageError(f"--{flag.name}={flag.value}: take at least 1")


def _chosen_styles() -> tuple[Style, ...]:
    styler = None if _STYLER.value is None else load_styler(_STYLER.value)
    styles = shipped_styles(styler)
    if not _STYLES.value:
        return styles
    return tuple(find_style(name, styles) for name in _STYLES.value)


def _load() -> tuple[list[str], Loops]:
    """Names and loops: one of every file, and a frame of the first that stands."""
    if _CLIPS.value is None:
        raise MirageError("no clips: set --clips to a folder of held-out videos")
    length = _WINDOW.value // 2 + 1
    clips = load_clips(_CLIPS.value, [_SIZE.value], length, 1)
    names = list(clips.names)[: _LOOPS.value]
    loops = clips.frames[_SIZE.value][: _LOOPS.value, to_and_fro(_WINDOW.value)]
    if _HELD.value:
        names.append(f"{names[0]} held")
        held = np.repeat(loops[:1, length // 2][:, None], _WINDOW.value, axis=1)
        loops = np.concatenate([loops, held])
    return names, loops


def _run(
    endless: Endless, mode: Mode, cases: Sequence[Case], loops: Loops, frames: int
) -> dict[Case, LongStream]:
    if mode.free:
        # What an effect should make of a source that is gone, nobody knows.
        cases = [c for c in cases if endless.styles[c.style].kind != "memory"]
        if not cases:
            raise MirageError(f"mode {mode.name} needs a style of one frame: name one")
        frames = _FREE_FRAMES.value
    moments = [moment for moment in MOMENTS if moment <= frames]
    runs: dict[Case, LongStream] = {}
    batch = endless.stream.batch
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        found = endless.run(mode, part, loops, frames, _FREE_AFTER.value, moments)
        runs |= dict(zip(part, found, strict=True))
    return runs


def _judge(
    runs: Sequence[LongStream], mode: Mode, style: Style, path: str
) -> tuple[dict[str, float], list[Check]]:
    """Values and bars of one style in one mode, under their full names."""
    measured: Measured = jax.tree.map(
        lambda *x: np.stack(x, axis=1), *[run.measured for run in runs]
    )
    if mode.free:
        values = free_values(measured, _FREE_AFTER.value)
        checks = free_checks(values, path)
    else:
        values = drift_values(measured, _WINDOW.value, style.history)
        checks = drift_checks(values, path)
    return {f"{name}/{path}": value for name, value in values.items()}, checks


def _draw(
    folder: Path, mode: Mode, styles: Sequence[Style], runs: dict[Case, LongStream]
) -> None:
    """PSNR of every style over time, and frames of each style's first clip."""
    lines, rows = [], []
    for place, style in enumerate(styles):
        of_style = [run for case, run in runs.items() if case.style == place]
        if not of_style:
            continue
        psnr = np.mean([run.measured.psnr for run in of_style], axis=0)
        # Frame by frame where the fall is what counts, else loop by loop.
        window = 1 if mode.free else _WINDOW.value
        points = loop_means(psnr[: len(psnr) // window * window], window)
        across = [window * (number + 1) for number in range(len(points))]
        lines.append((style.name, list(zip(across, points.tolist(), strict=True))))
        rows.append((style.name, list(of_style[0].pictures)))
    slug = mode.name.replace("/", "_")
    plot = draw_lines(lines, f"PSNR in dB, {mode.name}", "frames")
    save_picture(folder / f"drift_{slug}.png", plot)
    columns = [f"frame {moment:,}" for moment in MOMENTS[: len(rows[0][1])]]
    sheet = draw_grid(columns, rows, cell=_CELL)
    save_picture(folder / f"drift_{slug}.jpg", sheet, limit=200_000)


main = command("drift", drift)

if __name__ == "__main__":
    app.run(main)
