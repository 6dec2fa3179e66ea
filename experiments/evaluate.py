"""Measures a model against its teachers on clips that it has never seen.

    python -m experiments.evaluate --model=default --styler=styler.safetensors \
        --clips=path/to/held_out_clips

Every style runs on every clip, frame by frame through the stream step, at every size
and number of steps: PSNR and SSIM against the teacher, beside the untouched source,
the best colour transfer and the codec's ceiling; the same with the frame cache emptied
before every frame; and a long run over a looped clip. Writes one JSON file and grids
of pictures, prints a table, and with --strict exits with 1 where a bar is missed.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from experiments.command import command
from mirage_jax.data.prompts import HELD_OUT_PROMPTS, PROMPTS
from mirage_jax.data.teachers import Style, comparable_styles, find_styles
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.checks import Check, quality_checks
from mirage_jax.evaluation.clips import (
    HeldOutClips,
    join_clips,
    load_clips,
    photo_clips,
    to_and_fro,
)
from mirage_jax.evaluation.pictures import difference, draw_grid, save_picture
from mirage_jax.evaluation.quality import Case, CaseScores, LongRun, Plan, SizeBench
from mirage_jax.evaluation.summary import (
    long_run_values,
    quality_values,
    table,
    to_results,
)
from mirage_jax.precision import PRECISIONS, fields_of, precision_of
from mirage_jax.profiling import Profile
from mirage_jax.results import device_setup, write_results
from mirage_jax.stream_config import COMMITS, StreamConfig
from mirage_jax.styler import load_styler
from mirage_jax.text import encode_text
from mirage_jax.weights import Model, load_model

_MODEL = flags.DEFINE_string("model", "default", "Name of a shipped model or a folder.")
_STYLER = flags.DEFINE_string(
    "styler", None, "Weights of the style network; without them no neural styles."
)
_CLIPS = flags.DEFINE_string("clips", None, "Folder of clips never trained on.")
_PHOTOS = flags.DEFINE_string(
    "photos", None, "Folder of photographs never trained on, for a moving camera."
)
_SIZES = flags.DEFINE_multi_integer("sizes", [256, 512], "Sides of square frames.")
_STEPS = flags.DEFINE_multi_integer("steps", [1, 2, 4], "Denoiser passes a frame.")
_FRAMES = flags.DEFINE_integer("frames", 96, "Frames of a clip; a multiple of 8.")
_SEGMENTS = flags.DEFINE_integer("segments", 2, "Clips taken from every video file.")
_STREAMING_FRAMES = flags.DEFINE_integer(
    "streaming_frames", 1000, "Frames of the long runs; 0 for none."
)
_STREAMING_STEPS = flags.DEFINE_multi_integer(
    "streaming_steps", [1, 2], "Denoiser passes a frame in the long runs."
)
_STREAMING_SIZE = flags.DEFINE_integer(
    "streaming_size", None, "Size of the long runs; the largest by default."
)
_LOOPS = flags.DEFINE_integer("loops", 2, "Looped clips in the long runs.")
_STYLES = flags.DEFINE_list("styles", [], "Names of styles; all by default.")
_WORDING = flags.DEFINE_enum(
    "wording", "held_out", ["held_out", "training"], "Which prompts ask for the style."
)
_MEMORY_GAIN = flags.DEFINE_bool("memory_gain", True, "Also without the frame cache.")
_BATCH = flags.DEFINE_integer("batch", 32, "Streams that run side by side.")
_DEVICES = flags.DEFINE_integer("devices", 0, "Local devices to use; 0 for all.")
_COMMIT = flags.DEFINE_enum("commit", "merged", COMMITS, "What the frame cache keeps.")
_PRECISION = flags.DEFINE_enum(
    "precision", "bfloat16", PRECISIONS, "Of the stream; 8 bits of its dense layers."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of noise and corruption.")
_OUT = flags.DEFINE_string("out", "docs/results/quality.json", "Where results go.")
_PICTURES = flags.DEFINE_string(
    "pictures", "docs/pictures", "Folder for grids of pictures; empty for none."
)
_PROFILE_DIR = flags.DEFINE_string(
    "profile_dir", "", "Folder for a trace of two clips, docs/profiling.md; or none."
)
_STRICT = flags.DEFINE_bool("strict", False, "Exit with 1 where a bar is missed.")
# Side of a picture in the grids, and bytes of a grid: they are tracked, and the tree
# has little room.
_CELL = 144
_MOST_BYTES = 50_000


def evaluate() -> bool:
    """Runs what the flags ask for; whether a bar was missed that had to be cleared."""
    begin = time.perf_counter()
    # A whole clip of all streams is one program: two of them are a trace.
    profile = Profile(_PROFILE_DIR.value, "clip", warm_up=1, steps=2)
    model = load_model(_MODEL.value)
    styles = _chosen_styles()
    wordings = HELD_OUT_PROMPTS if _WORDING.value == "held_out" else PROMPTS
    wording = {style.name: wordings[style.name][0] for style in styles}
    prompts = encode_text(list(wording.values()))
    plan = _plan()
    sizes = sorted(set(_SIZES.value))
    long_size = _STREAMING_SIZE.value or sizes[-1]
    clips = _load(sizes, plan.length)
    print(f"{len(styles)} styles on {len(clips.names)} clips of {plan.length} frames")

    values: dict[str, float] = {}
    with profile:
        for size in sizes:
            here = plan if size == long_size else _without_long_runs(plan)
            scores, runs, codec = _measure(
                model, here, styles, prompts, size, clips, profile
            )
            values |= {
                f"codec/{name}/{size}": float(frames.mean())
                for name, frames in codec.items()
            }
            values |= quality_values(scores, styles, clips.names, here, size)
            values |= long_run_values(runs, styles, plan.length)
            if _PICTURES.value:
                _draw(Path(_PICTURES.value), size, styles, scores)
            print(f"{size}x{size} done after {time.perf_counter() - begin:.0f} s")

    checks = quality_checks(values, styles)
    values |= {f"check/{check.name}": float(check.passed) for check in checks}
    setup = device_setup() | {
        "model": _MODEL.value,
        "weights_sha256": model.sha256,
        "styles": {style.name: style.kind for style in styles},
        "clips": list(clips.names),
        "clip_frames": plan.length,
        "wording": _WORDING.value,
        "prompts": wording,
        "precision": precision_of(plan.stream),
        "commit_mode": _COMMIT.value,
        "batch": plan.batch,
        "seed": plan.seed,
        "ssim": "luminance, gaussian window 11, sigma 1.5",
        "long_run": {
            "frames": plan.rounds * plan.length,
            "loop": plan.length,
            "size": long_size,
            "compared": "the last loop with frames 0-7 (first) and 8-29 (early) of the "
            "first, on the same source and target frames; effects with memory count "
            "from the frame on where their target has a whole past",
        },
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_results(_OUT.value, "experiments/evaluate.py", setup, to_results(values))
    _report(values, styles, sizes, checks)
    return _STRICT.value and not all(check.passed for check in checks)


def _plan() -> Plan:
    if _FRAMES.value < 16 or _FRAMES.value % 8:
        raise MirageError(f"--frames={_FRAMES.value}: take a multiple of 8 from 16 on")
    for flag in (_BATCH, _SEGMENTS, _LOOPS):
        if flag.value < 1:
            raise MirageError(f"--{flag.name}={flag.value}: take at least 1")
    # Layers in a loop: at this batch it costs no speed and compiles much sooner.
    stream = StreamConfig(
        commit=_COMMIT.value,
        batch=_BATCH.value,
        unroll=False,
        **fields_of(_PRECISION.value, jax.default_backend()),
    )
    return Plan(
        stream=stream,
        length=_FRAMES.value,
        steps=tuple(sorted(set(_STEPS.value))),
        long_steps=tuple(sorted(set(_STREAMING_STEPS.value))),
        long_frames=_STREAMING_FRAMES.value,
        batch=_BATCH.value,
        memory_gain=_MEMORY_GAIN.value,
        seed=_SEED.value,
    )


def _without_long_runs(plan: Plan) -> Plan:
    return dataclasses.replace(plan, long_frames=0)


def _chosen_styles() -> tuple[Style, ...]:
    styler = None if _STYLER.value is None else load_styler(_STYLER.value)
    return find_styles(_STYLES.value, comparable_styles(styler))


def _load(sizes: Sequence[int], length: int) -> HeldOutClips:
    if _CLIPS.value is None:
        raise MirageError("no clips: set --clips to a folder of held-out videos")
    clips = load_clips(_CLIPS.value, sizes, length, _SEGMENTS.value)
    if _PHOTOS.value is None:
        return clips
    return join_clips(clips, photo_clips(_PHOTOS.value, sizes, length, _SEED.value))


def _measure(
    model: Model,
    plan: Plan,
    styles: Sequence[Style],
    prompts: np.ndarray,
    size: int,
    clips: HeldOutClips,
    profile: Profile,
) -> tuple[list[CaseScores], list[LongRun], dict[str, np.ndarray]]:
    """Everything at one size, shared out over the devices."""
    devices = jax.local_devices()[: _DEVICES.value or None]
    frames = clips.frames[size]
    cases = [Case(s, c) for s in range(len(styles)) for c in range(len(frames))]
    # One loop a file: 0 1 2 .. 2 1 of its first clip, so that it has no cut.
    chosen = list(clips.first_of_each_file()[: _LOOPS.value])
    loops = frames[chosen][:, to_and_fro(plan.length)]
    long_cases = [Case(s, c) for s in range(len(styles)) for c in range(len(loops))]
    if not plan.long_frames:
        long_cases = []
    fair = -(-max(len(cases), len(long_cases)) // len(devices))
    plan = dataclasses.replace(plan, batch=min(plan.batch, fair))

    def parts(items: list[Case]) -> list[list[Case]]:
        return [items[i : i + plan.batch] for i in range(0, len(items), plan.batch)]

    begin = time.perf_counter()

    def work(
        place: int,
    ) -> tuple[list[CaseScores], list[LongRun], dict[str, np.ndarray]]:
        with jax.default_device(devices[place]):
            traced = profile if place == 0 else None
            bench = SizeBench(
                model, plan, styles, prompts, size, devices[place], traced
            )
            print(f"{size}x{size}: compiled in {time.perf_counter() - begin:.0f} s")
            scores, runs = [], []
            for part in parts(cases)[place :: len(devices)]:
                scores += bench.cases(part, frames)
            for part in parts(long_cases)[place :: len(devices)]:
                runs += bench.long_runs(part, loops)
            return scores, runs, bench.codec(frames) if place == 0 else {}

    with ThreadPoolExecutor(len(devices)) as pool:
        done = list(pool.map(work, range(len(devices))))
    scores = [score for one in done for score in one[0]]
    runs = [run for one in done for run in one[1]]
    return scores, runs, done[0][2]


def _draw(
    folder: Path,
    size: int,
    styles: Sequence[Style],
    scores: Sequence[CaseScores],
) -> None:
    """A grid for every kind of style."""
    count = 1 + max(score.case.clip for score in scores)
    for kind in dict.fromkeys(style.kind for style in styles):
        rows = []
        for number, style in enumerate(styles):
            if style.kind != kind:
                continue
            # Another clip in every row: more to see.
            source, target, styled = next(
                score.pictures
                for score in scores
                if score.case == Case(number, number % count)
            )
            shown = source, target, styled, difference(styled, target)
            rows.append((style.name, shown))
        columns = ("source", "teacher", "model", "|difference|")
        grid = draw_grid(columns, rows, cell=_CELL)
        save_picture(folder / f"quality_{kind}_{size}.webp", grid, _MOST_BYTES)


def _report(
    values: dict[str, float],
    styles: Sequence[Style],
    sizes: Sequence[int],
    checks: Sequence[Check],
) -> None:
    for size in sizes:
        print(table(values, styles, size, min(_STEPS.value)))
    for check in checks:
        if not check.passed:
            print(check)
    passed = sum(check.passed for check in checks)
    print(f"{passed} of {len(checks)} bars cleared; results in {_OUT.value}")


main = command("evaluate", evaluate)

if __name__ == "__main__":
    app.run(main)
