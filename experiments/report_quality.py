"""Blocks of the technical report on pictures: quality, ablations, drift."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.dot_plot import Dot, draw_dots
from experiments.page_block import markdown_table, number
from experiments.report_records import (
    Found,
    Part,
    absent,
    commit_mode,
    find,
    machine,
    mean,
)
from mirage_jax.flow import STEP_COUNTS

_SIZE = 512
_TRIALS = ("drift", "heal", "steering", "variants")


def quality(folder: Path) -> Part:
    """PSNR of every kind of style between what to beat and the ceiling."""
    found = find(folder, "quality.json")
    if not found:
        return absent("Quality", "evaluate")
    [one] = found
    kinds, v = one.setup["styles"], one.values
    shown = {
        "source": f"psnr_source/{{}}/{_SIZE}",
        "colour transfer": f"psnr_colour_transfer/{{}}/{_SIZE}",
        "model, 1 step": f"psnr/{{}}/{_SIZE}/1",
        "codec": f"psnr_codec/{{}}/{_SIZE}",
    }
    rows = []
    for kind in dict.fromkeys(kinds.values()):
        source, transfer, _, codec = (
            number(mean(_of_kind(one, kind, name)), 2) for name in shown.values()
        )
        names = (f"psnr_mean/{kind}/{_SIZE}/{steps}" for steps in STEP_COUNTS)
        cells = (number(v.get(name), 2) for name in names)
        rows.append((kind, source, transfer, *cells, codec))
    head = ("styles", "source", "colour transfer", *_steps(), "codec")
    dots = [
        (style, {label: Dot(v[name.format(style)]) for label, name in shown.items()})
        for style in kinds
    ]
    text = (
        f"PSNR against the teacher in dB at {_SIZE}x{_SIZE}, means over the styles of "
        f"a kind ({one.link}; {machine(one.setup)}, {one.setup['precision']}, "
        f"{len(one.setup['clips'])} clips of {one.setup['clip_frames']} frames):\n\n"
        + markdown_table(head, rows)
    )
    shows = f"PSNR of every style at {_SIZE}x{_SIZE}"
    return Part(text, draw_dots(dots, "PSNR against the teacher, dB", shows), shows)


def memory(folder: Path) -> Part:
    """What the frame cache is worth, by kind of style and number of steps."""
    found = find(folder, "quality.json")
    if not found:
        return absent("Memory gain", "evaluate")
    [one] = found
    kinds = one.setup["styles"]
    names = [style for style, kind in kinds.items() if kind == "memory"]
    rows = [(style, *_gains(one, [style])) for style in names]
    for kind in dict.fromkeys(kinds.values()):
        if kind != "memory":
            of_kind = [style for style in kinds if kinds[style] == kind]
            rows.append((f"{kind} styles, mean", *_gains(one, of_kind)))
    head = ("style", *_steps())
    return Part(
        f"Memory gain in dB at {_SIZE}x{_SIZE}, PSNR with the cache minus PSNR with "
        f"the cache emptied before every frame ({one.link}):\n\n"
        + markdown_table(head, rows)
    )


def clips(folder: Path) -> Part:
    """The same weights before and after a finetune on longer clips."""
    found = find(folder, "clips_of_*_frames.json")
    if len(found) < 2:
        return absent("Length of training clips", "evaluate")
    found.sort(key=lambda one: int(one.path.stem.split("_")[2]))
    size = found[0].setup["long_run"]["size"]
    measures = {
        "PSNR": "psnr/{}/" + f"{size}/1",
        "last - first": "drift_last_minus_first/{}/1",
        "memory gain": "memory_gain/{}/" + f"{size}/1",
    }
    lengths = [one.path.stem.split("_")[2] for one in found]
    head = ["style"]
    head += [f"{name}, {length}" for name in measures for length in lengths]
    rows, dots = [], []
    for style in found[0].setup["styles"]:
        cells = [
            number(one.values.get(name.format(style)), 2)
            for name in measures.values()
            for one in found
        ]
        rows.append((style, *cells))
        name = measures["last - first"].format(style)
        series = {
            f"clips of {length} frames": Dot(one.values[name])
            for length, one in zip(lengths, found, strict=True)
            if name in one.values
        }
        dots.append((style, series))
    text = (
        f"By frames of a training clip, dB at {size}x{size}; last - first is the last "
        f"loop of a long run minus its first frames "
        f"({', '.join(one.link for one in found)}):\n\n" + markdown_table(head, rows)
    )
    shows = "what a long run loses by style, after training on shorter and longer clips"
    return Part(text, draw_dots(dots, "last loop minus first frames, dB", shows), shows)


def looped(folder: Path) -> Part:
    """Change between the opening and the last loop in evaluate.py's long run."""
    found = find(folder, "quality.json")
    if not found or "long_run" not in found[0].setup:
        return absent("Long runs of every style", "evaluate")
    [one] = found
    kinds, run = one.setup["styles"], one.setup["long_run"]
    rows = []
    for kind in dict.fromkeys(kinds.values()):
        for steps in (1, 2):
            cells = [kind, str(steps)]
            for measure in ("drift_last_minus_first", "drift_last_minus_early"):
                v = _of_kind(one, kind, measure + "/{}/" + str(steps))
                cells += [number(mean(v), 2), number(min(v), 2)] if v else ["", ""]
            rows.append(cells)
    head = ("styles", "steps", "last - first", "worst", "last - early", "worst style")
    dots = [
        (
            style,
            {
                label: Dot(one.values[name])
                for label, steps in zip(_steps((1, 2)), (1, 2), strict=True)
                if (name := f"drift_last_minus_early/{style}/{steps}") in one.values
            },
        )
        for style in kinds
    ]
    text = (
        f"{run['frames']} frames at {run['size']}x{run['size']}, "
        f"{commit_mode(one.setup)} commit, change of PSNR in dB on equal source "
        "frames, of the last loop against frames 0-7 (first) and 8-29 (early); mean "
        f"and worst style of a kind ({one.link}):\n\n" + markdown_table(head, rows)
    )
    shows = "change of PSNR between frames 8-29 and the last loop, by style"
    return Part(text, draw_dots(dots, "last loop minus early frames, dB", shows), shows)


def drift(folder: Path) -> Part:
    """Slopes with their intervals, of every mode of every file."""
    found = find(folder, "drift*.json")
    if not found:
        return absent("Slopes over 10,000 frames, free runs and their bars", "drift")
    rows: list[tuple[str, ...]] = []
    dots: dict[str, dict[str, Dot]] = {}
    for one in found:
        for place, mode in enumerate(one.setup["modes"]):
            suffix = f"/{mode}" if place else ""
            slopes = {
                style: Dot(*(one.values[f"{name}/{style}{suffix}"] for name in _SLOPE))
                for style in one.setup["styles"]
                if f"{_SLOPE[0]}/{style}{suffix}" in one.values
            }
            rows.append((one.link, mode, *_drift_cells(one, suffix, slopes)))
            series = mode if len(found) == 1 else f"{one.path.stem}, {mode}"
            for style, dot in slopes.items():
                dots.setdefault(style, {})[series] = dot
    head = (
        *("file", "mode", "frames", "slope, mean", "lowest end", "highest end"),
        *("last - first, worst", "memory gain, mean", "free frames, least", "bars"),
    )
    text = (
        "Slopes in dB per 1,000 frames with the ends of their 95 % intervals, over the "
        "styles of a file; last - first in dB, and the memory gain of the effects that "
        "need memory:\n\n" + markdown_table(head, rows)
    )
    if not dots:
        return Part(text)
    shows = "slope of PSNR of every style and mode, with its 95 % interval"
    picture = draw_dots(list(dots.items()), "dB per 1,000 frames", shows)
    return Part(text, picture, shows)


_SLOPE = ("psnr_slope_per_1000", "psnr_slope_low", "psnr_slope_high")


def trials(folder: Path) -> Part:
    """How many bars each trial of long streams clears, and which it misses."""
    lines = []
    for name in _TRIALS:
        found = find(folder, f"{name}*.json")
        if not found:
            lines.append(f"- {absent(name.capitalize(), name).text}")
        for one in found:
            checks = {n: v for n, v in one.values.items() if n.startswith("check/")}
            kinds = sorted({n.split("/")[1] for n, v in checks.items() if v != 1})
            told = f"; missed: {', '.join(kinds)}" if kinds else ""
            passed = sum(value == 1 for value in checks.values())
            lines.append(
                f"- {one.link}: {passed} of {len(checks)} bars cleared on "
                f"{machine(one.setup)}{told}."
            )
    return Part("\n".join(lines))


def _drift_cells(one: Found, suffix: str, slopes: dict[str, Dot]) -> Sequence[str]:
    kinds = one.setup["styles"]

    def of(measure: str, styles: Iterable[str] = kinds) -> list[float]:
        names = [f"{measure}/{style}{suffix}" for style in styles]
        return [one.values[name] for name in names if name in one.values]

    values = list(slopes.values())
    lost, free = of("drift_last_minus_first"), of("free_frames")
    gain = of("memory_gain", [s for s, kind in kinds.items() if kind == "memory"])
    bars = [
        value
        for name, value in one.values.items()
        if name.startswith("check/") and _behind_style(name) == suffix
    ]
    return (
        number(None if free else one.values.get("frames"), 0),
        number(mean([dot.value for dot in values]), 3) if values else "",
        number(min(dot.low or 0.0 for dot in values), 3) if values else "",
        number(max(dot.high or 0.0 for dot in values), 3) if values else "",
        number(min(lost), 2) if lost else "",
        number(mean(gain), 2) if gain else "",
        number(min(free), 0) if free else "",
        f"{sum(value == 1 for value in bars)} of {len(bars)}",
    )


def _behind_style(check: str) -> str:
    """`/lagged/1` of `check/motion/sepia/lagged/1`; empty in the first mode."""
    return "".join(f"/{part}" for part in check.split("/")[3:])


def _of_kind(one: Found, kind: str, name: str) -> list[float]:
    names = [name.format(s) for s, k in one.setup["styles"].items() if k == kind]
    return [one.values[n] for n in names if n in one.values]


def _steps(counts: Sequence[int] = STEP_COUNTS) -> list[str]:
    return [f"{steps} step{'s' * (steps > 1)}" for steps in counts]


def _gains(one: Found, styles: Sequence[str]) -> list[str]:
    cells = []
    for steps in STEP_COUNTS:
        names = [f"memory_gain/{style}/{_SIZE}/{steps}" for style in styles]
        values = [one.values[name] for name in names if name in one.values]
        cells.append(number(mean(values), 2) if values else "")
    return cells
