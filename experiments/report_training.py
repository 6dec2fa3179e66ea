"""Blocks of the technical report on training: what its parts are good for."""

from pathlib import Path

from experiments.dot_plot import Dot, draw_dots
from experiments.page_block import markdown_table, number
from experiments.report_records import Found, Part, absent, find, machine, mean
from mirage_jax.flow import STEP_COUNTS

_LOST = "drift_last_minus_first"


def ablations(folder: Path) -> Part:
    """Streams of the last stage of training and of the same without one of its parts.

    The files are those of drift.py, named ablation_STAGE.json; the first mode counts.
    """
    found = find(folder, "ablation_*.json")
    if not found:
        return absent("What keeps a stream from drifting", "drift")
    rows = []
    dots: dict[str, dict[str, Dot]] = {}
    for one in found:
        stage = _name_of(one, "ablation_")
        lost = _of_styles(one, _LOST)
        worst = min(lost, key=lambda style: lost[style])
        bars = [v for name, v in one.values.items() if name.startswith("check/")]
        rows.append(
            (
                f"[{stage}](results/{one.path.name})",
                one.setup["modes"][0],
                number(mean(list(_of_styles(one, "psnr_first").values())), 2),
                number(mean(list(lost.values())), 2),
                f"{number(lost[worst], 2)} ({worst})",
                number(mean(list(_of_styles(one, "memory_gain").values())), 2),
                f"{sum(value == 1 for value in bars)} of {len(bars)}",
            )
        )
        for style, value in lost.items():
            dots.setdefault(style, {})[stage] = Dot(value)
    head = (
        *("training", "mode", "frames 0-7", "last - first, mean", "worst"),
        *("memory gain, mean", "bars"),
    )
    [first, *_] = found
    text = (
        f"{first.values['frames']:.0f} frames of every style on "
        f"{machine(first.setup)}, PSNR in dB; last - first is the last loop minus the "
        "same source frames of the first one:\n\n" + markdown_table(head, rows)
    )
    shows = "what a stream loses between its first and its last frames, by training"
    picture = draw_dots(list(dots.items()), "last loop minus first frames, dB", shows)
    return Part(text, picture, shows)


def few_step(folder: Path) -> Part:
    """The objectives of the pixel stage, by the number of steps that a stream takes.

    The files are those of evaluate.py, named few_step_OBJECTIVE.json.
    """
    found = find(folder, "few_step_*.json")
    if not found:
        return absent("Which objective makes few steps enough", "evaluate")
    size = max(
        int(name.split("/")[2])
        for name in found[0].values
        if name.startswith("psnr_mean/")
    )
    rows = []
    for one in found:
        objective = f"[{_name_of(one, 'few_step_')}](results/{one.path.name})"
        for kind in dict.fromkeys(one.setup["styles"].values()):
            means = (
                one.values.get(f"psnr_mean/{kind}/{size}/{steps}")
                for steps in STEP_COUNTS
            )
            rows.append((objective, kind, *(number(value, 2) for value in means)))
    head = ("objective", "styles", *(f"steps: {steps}" for steps in STEP_COUNTS))
    return Part(
        f"PSNR against the teacher in dB at {size}x{size} on "
        f"{machine(found[0].setup)}, means over the styles of a kind, after equal "
        "minutes from the same weights:\n\n" + markdown_table(head, rows)
    )


def _name_of(one: Found, before: str) -> str:
    return one.path.stem.removeprefix(before).replace("_", " ")


def _of_styles(one: Found, measure: str) -> dict[str, float]:
    """A measure of the first mode, by style."""
    names = {style: f"{measure}/{style}" for style in one.setup["styles"]}
    return {style: one.values[n] for style, n in names.items() if n in one.values}
