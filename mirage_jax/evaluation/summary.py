"""Numbers by name from the scores of single frames."""

from collections.abc import Mapping, Sequence

import numpy as np

from mirage_jax.data.teachers import Style
from mirage_jax.evaluation.quality import CaseScores, LongRun, Plan
from mirage_jax.results import Result

UNITS = {
    "psnr": ("dB", "higher"),
    "ssim": ("1", "higher"),
    "sharpness": ("of the teacher's", "higher"),
    "flicker": ("of 255", "lower"),
    "memory_gain": ("dB", "higher"),
    "codec_gap": ("dB", "lower"),
    "drift": ("dB", "higher"),
    "codec": ("dB", "higher"),
    "check": ("passed", "higher"),
}
BASELINES = ("source", "colour_transfer")
# Moments of a loop that are compared over time: the opening and what follows it.
OPENING, EARLY = (0, 8), (8, 30)


def quality_values(
    scores: Sequence[CaseScores],
    styles: Sequence[Style],
    clips: Sequence[str],
    plan: Plan,
    size: int,
) -> dict[str, float]:
    """Means over frames and clips of every style, over styles by kind, and by clip."""
    values: dict[str, float] = {}
    for number, style in enumerate(styles):
        rows = [row.frames for row in scores if row.case.style == number]
        if rows:
            values |= _style_values(rows, style.name, plan, size)
    for steps in plan.steps:
        for kind in dict.fromkeys(style.kind for style in styles):
            names = [style.name for style in styles if style.kind == kind]
            for measure in ("psnr", "ssim", "codec_gap"):
                parts = [f"{measure}/{name}/{size}/{steps}" for name in names]
                known = [values[part] for part in parts if part in values]
                if known:
                    name = f"{measure}_mean/{kind}/{size}/{steps}"
                    values[name] = float(np.mean(known))
        for number, clip in enumerate(clips):
            frames = [
                row.frames[f"psnr/{steps}"] for row in scores if row.case.clip == number
            ]
            if frames:
                values[f"psnr_clip/{clip}/{size}/{steps}"] = float(np.mean(frames))
    return values


def _style_values(
    rows: Sequence[Mapping[str, np.ndarray]], name: str, plan: Plan, size: int
) -> dict[str, float]:
    def mean(measure: str) -> float:
        return float(np.mean([row[measure] for row in rows]))

    here = f"{name}/{size}"
    values = {
        f"{measure}/{here}": mean(measure)
        for measure in sorted(rows[0])
        if "/" not in measure
    }
    for steps in plan.steps:
        psnr = mean(f"psnr/{steps}")
        values[f"psnr/{here}/{steps}"] = psnr
        values[f"ssim/{here}/{steps}"] = mean(f"ssim/{steps}")
        values[f"sharpness/{here}/{steps}"] = mean(f"sharpness/{steps}")
        values[f"codec_gap/{here}/{steps}"] = values[f"psnr_codec/{here}"] - psnr
        still = np.stack([row[f"still/{steps}"] for row in rows])
        if still.sum() > 0:
            change = np.stack([row[f"change/{steps}"] for row in rows])
            flicker = float((change * still).sum() / still.sum()) ** 0.5
            values[f"flicker/{here}/{steps}"] = flicker
        if plan.memory_gain:
            gain = psnr - mean(f"psnr_forgetful/{steps}")
            values[f"memory_gain/{here}/{steps}"] = gain
    return values


def long_run_values(
    runs: Sequence[LongRun], styles: Sequence[Style], length: int
) -> dict[str, float]:
    """Last loop against the opening and the moments after it, on the same frames.

    An effect with memory has another target while it has no past, so its opening
    counts from the frame on where teacher and source are those of the last loop.
    """
    values: dict[str, float] = {}
    for number, style in enumerate(styles):
        opening = slice(min(style.history, OPENING[1] - 1), OPENING[1])
        early = slice(EARLY[0], min(EARLY[1], length))
        for steps in dict.fromkeys(run.steps for run in runs):
            histories = [
                run.psnr
                for run in runs
                if run.case.style == number and run.steps == steps
            ]
            if not histories:
                continue
            history = np.stack(histories)  # [streams, frames]
            first, last = history[:, :length], history[:, -length:]
            lost = last[:, opening].mean(1) - first[:, opening].mean(1)
            since = last[:, early].mean(1) - first[:, early].mean(1)
            here = f"{style.name}/{steps}"
            values |= {
                f"drift_last_minus_first/{here}": float(lost.mean()),
                f"drift_last_minus_early/{here}": float(since.mean()),
                f"drift_worst_stream/{here}": float(np.minimum(lost, since).min()),
                f"psnr_first/{here}": float(first[:, opening].mean()),
                f"psnr_last/{here}": float(last[:, opening].mean()),
            }
    return values


def to_results(values: Mapping[str, float]) -> list[Result]:
    """Every value with its unit and the direction in which it is better."""
    results = []
    for name, value in values.items():
        measure = name.split("/")[0]
        kind = next(unit for unit in UNITS if measure.startswith(unit))
        if name.startswith("codec/ssim"):
            kind = "ssim"
        results.append(Result(name, round(value, 4), *UNITS[kind]))
    return results


def table(
    values: Mapping[str, float], styles: Sequence[Style], size: int, steps: int
) -> str:
    """The main numbers of one size as text, a line a style."""
    head = ("style", "PSNR", "SSIM", "source", "colours", "codec", "memory", "drift")
    lines = [f"{size}x{size}, {steps} step" + "s" * (steps > 1)]
    lines.append(f"{head[0]:>14}" + "".join(f"{word:>9}" for word in head[1:]))
    for style in styles:
        here = f"{style.name}/{size}"
        names = (
            f"psnr/{here}/{steps}",
            f"ssim/{here}/{steps}",
            f"psnr_source/{here}",
            f"psnr_colour_transfer/{here}",
            f"psnr_codec/{here}",
            f"memory_gain/{here}/{steps}",
            f"drift_last_minus_first/{style.name}/{steps}",
        )
        cells = (values.get(name) for name in names)
        lines.append(
            f"{style.name:>14}"
            + "".join(f"{'-' if v is None else format(v, '.3f'):>9}" for v in cells)
        )
    return "\n".join(lines)
