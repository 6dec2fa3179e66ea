"""Blocks of the technical report on training: what its parts are good for."""

from pathlib import Path

from experiments.dot_plot import Dot, draw_dots
from experiments.page_block import markdown_table, number
from experiments.report_records import (
    Found,
    Part,
    absent,
    find,
    machine,
    mean,
    read_log,
)
from mirage_jax.flow import STEP_COUNTS

_LOST = "drift_last_minus_first"


def ablations(folder: Path) -> Part:
    """Streams of the last stage of training and of the same without one of its parts.

    The files are those of drift.py, named ablation_STAGE.json; the first mode counts.
    """
    found = _first(find(folder, "ablation_*.json"), "whole")
    if not found:
        return absent("What keeps a stream from drifting", "drift")
    rows = []
    dots: dict[str, dict[str, Dot]] = {}
    for one in found:
        stage = _name_of(one, "ablation_")
        lost = _of_styles(one, _LOST)
        gain = list(_of_styles(one, "memory_gain", "memory").values())
        worst = min(lost, key=lambda style: lost[style])
        bars = [v for name, v in one.values.items() if name.startswith("check/")]
        rows.append(
            (
                f"[{stage}](results/{one.path.name})",
                one.setup["modes"][0],
                number(mean(list(_of_styles(one, "psnr_first").values())), 2),
                number(mean(list(lost.values())), 2),
                f"{number(lost[worst], 2)} ({worst})",
                number(mean(gain) if gain else None, 2),
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
        "same source frames of the first one, and the memory gain is of the effects "
        "that need memory:\n\n" + markdown_table(head, rows)
    )
    shows = "what a stream loses between its first and its last frames, by training"
    picture = draw_dots(list(dots.items()), "last loop minus first frames, dB", shows)
    return Part(text, picture, shows)


def few_step(folder: Path) -> Part:
    """The objectives of the pixel stage, by the number of steps that a stream takes.

    The files are those of evaluate.py, named few_step_OBJECTIVE.json.
    """
    found = _first(find(folder, "few_step_*.json"), "regression")
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


def steps(folder: Path) -> Part:
    """Time of training steps; the files are those of bench_train.py."""
    found = find(folder, "bench_train_*.json")
    if not found:
        return absent("Time of training steps", "bench_train")
    rows = []
    for one in found:
        for name, milliseconds in one.values.items():
            if not name.startswith("step_ms/"):
                continue
            count = name.split("/")[1]
            share = one.values.get(f"scaling/{count}")
            rows.append(
                (
                    f"[{one.setup['model']}](results/{one.path.name})",
                    f"{count} {one.setup['device']}",
                    str(one.setup["remat"]),
                    str(one.setup["styles"] * one.setup["draws"]),
                    number(milliseconds, 0),
                    number(one.values[f"tokens_per_s/{count}"], 0),
                    _percent(one.values.get(f"model_flop_use/{count}")),
                    _percent(share),
                    number(one.values[f"memory_gib/{count}/planned"], 1),
                )
            )
    head = (
        *("model", "devices", "computed again", "clips a device"),
        *("ms a step", "tokens/s"),
        *("of bfloat16 peak", "of perfect scaling", "GiB a device"),
    )
    return Part(markdown_table(head, rows))


def scale(folder: Path) -> Part:
    """Sizes of the model after equal minutes of the first stage, from fresh weights.

    The files are those of evaluate.py, named equal_minutes_MODEL.json, each beside the
    log of its training, train_denoiser_equal_minutes_MODEL.jsonl.
    """
    found = find(folder, "equal_minutes_*.json")
    if not found:
        return absent("Sizes of the model at equal minutes", "train_denoiser")
    rows = []
    dots: dict[str, dict[str, Dot]] = {}
    for one in found:
        log = folder / f"train_denoiser_{one.path.stem}.jsonl"
        curve = read_log(log)
        last = curve[-1]
        quality = (
            one.values.get(f"psnr_mean/{kind}/512/1")
            for kind in ("procedural", "neural", "memory")
        )
        model = one.path.stem.removeprefix("equal_minutes_")
        minutes = last["elapsed_s"] / 60
        for tenth in range(1, 11):
            row = dots.setdefault(f"{tenth * minutes / 10:.1f} minutes", {})
            row[model] = Dot(_loss_at(curve, tenth / 10))
        rows.append(
            (
                f"[{model}](results/{one.path.name})",
                f"[{last['step']:.0f}](results/{log.name})",
                number(minutes, 1),
                *(number(_loss_at(curve, share), 3) for share in (0.25, 0.5, 1.0)),
                number(last["tokens_per_s"], 0),
                *(number(value, 2) for value in quality),
            )
        )
    head = (
        *("model", "steps", "minutes", "loss after a quarter", "half", "all"),
        *("tokens/s", "procedural", "neural", "memory"),
    )
    shows = (
        "the loss of a training from fresh weights, by its time and the model's size"
    )
    return Part(
        f"{machine(found[0].setup)}; PSNR in dB of held-out clips at 512x512 in one "
        "step:\n\n" + markdown_table(head, rows),
        draw_dots(list(dots.items()), "loss", shows),
        shows,
    )


def _loss_at(curve: list[dict[str, float]], share: float) -> float:
    """The loss that a log has nearest to a share of its time."""
    moment = share * curve[-1]["elapsed_s"]
    return min(curve, key=lambda row: abs(row["elapsed_s"] - moment))["loss"]


def _percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, 1)


def _first(found: list[Found], name: str) -> list[Found]:
    """The one of this name before the others, which are compared with it."""
    return sorted(found, key=lambda one: not one.path.stem.endswith(f"_{name}"))


def _name_of(one: Found, before: str) -> str:
    return one.path.stem.removeprefix(before).replace("_", " ")


def _of_styles(one: Found, measure: str, kind: str = "") -> dict[str, float]:
    """A measure of the first mode, by style; of the styles of a kind, or of all."""
    styles = [name for name, its in one.setup["styles"].items() if kind in ("", its)]
    names = {style: f"{measure}/{style}" for style in styles}
    return {style: one.values[n] for style, n in names.items() if n in one.values}
