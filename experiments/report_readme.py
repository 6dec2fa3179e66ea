"""Blocks of the README: how good, for how long, how fast, and on what."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from experiments.page_block import markdown_table, number
from experiments.report_records import Found, Part, absent, find, mean, summaries
from experiments.roofline_measured import read_measured
from experiments.roofline_report import Roofline, projections
from mirage_jax.chips import KINDS, chip_of
from mirage_jax.config import model_config
from mirage_jax.frame_cost import frame_floor_ms, frame_parts
from mirage_jax.stream_config import StreamConfig

_SIZE = 512
_STYLES = {
    "procedural": "formulas",
    "neural": "paintings",
    "memory": "effects with memory",
}
_MODELS = {
    "default": "default, trained weights",
    "lsd_880m": "880M, random weights",
}
_MODES = {
    "merged/1": "merged, 1 step: the default on a CPU",
    "lagged/1": "lagged, 1 step: reads its own output, the default on a GPU",
    "lagged/2": "lagged, 2 steps: reads its own output",
}
_ABSENT = ("a100_80gb", "rtx3090")  # cards that nobody here has
_WAITED = "frame_ms/bfloat16/1/p50"
_LAGGED = "stage_ms/bfloat16/1/commit_lagged/p50"


def quality(folder: Path) -> Part:
    """PSNR by kind of style, between what to beat and the ceiling; the worst style."""
    found = find(folder, "quality.json")
    if not found:
        return absent("Quality", "evaluate")
    [one] = found
    kinds, v = one.setup["styles"], one.values
    rows = []
    for kind in dict.fromkeys(kinds.values()):
        styles = [style for style in kinds if kinds[style] == kind]
        model = {s: v[f"psnr/{s}/{_SIZE}/1"] for s in styles}
        worst = min(model, key=lambda style: model[style])
        source, transfer, codec = (
            number(mean([v[f"{name}/{style}/{_SIZE}"] for style in styles]), 1)
            for name in ("psnr_source", "psnr_colour_transfer", "psnr_codec")
        )
        worst = f"{number(model[worst], 1)} ({worst})"
        here = number(mean(list(model.values())), 1)
        label = f"{_STYLES.get(kind, kind)} ({len(styles)})"
        rows.append((label, source, transfer, f"**{here}**", worst, codec))
    checks = [value for name, value in v.items() if name.startswith("check/")]
    passed = sum(value == 1 for value in checks)
    head = ("styles", "source as it is", "recoloured at best", "**model**")
    return Part(
        f"PSNR in dB against the teacher at {_SIZE}x{_SIZE}, one step, on "
        f"{len(one.setup['clips'])} clips and with prompts that training did not see "
        f"({_link('measured', one.path)}); {passed} of {len(checks)} bars are cleared, "
        "and [docs/quality.md](docs/quality.md) names those that are missed:\n\n"
        + markdown_table((*head, "its worst style", "ceiling: the codec"), rows)
    )


def drift(folder: Path) -> Part:
    """What long streams lose, by mode: slope, and the last loop against the first."""
    found = find(folder, "drift.json")
    if not found:
        return absent("Drift", "drift")
    [one] = found
    rows = []
    for place, mode in enumerate(one.setup["modes"]):
        if mode.startswith("free"):  # has other measures
            continue
        suffix = f"/{mode}" if place else ""
        ends: list[float] = []
        lost: dict[str, float] = {}
        for style in one.setup["styles"]:
            name = f"{style}{suffix}"
            ends += [one.values[f"psnr_slope_{end}/{name}"] for end in ("low", "high")]
            lost[style] = one.values[f"drift_last_minus_first/{name}"]
        worst = min(lost, key=lambda style: lost[style])
        rows.append(
            (
                _MODES.get(mode, mode),
                f"{min(ends):+.4f} to {max(ends):+.4f}",
                number(statistics.median(lost.values()), 2),
                f"{number(lost[worst], 2)} ({worst})",
            )
        )
    if not rows:
        return absent("Drift", "drift")
    size, frames = one.setup["height"], one.setup["frames"]
    head = (
        "mode",
        "dB per 1,000 frames, all styles",
        "last loop - first frames, median",
    )
    return Part(
        f"{frames:,} frames of {size}x{size} without a reset, PSNR against the teacher "
        f"({_link('measured', one.path)} on {one.setup['device']}); the slopes are the "
        "outermost ends of the 95 % intervals of all styles:\n\n"
        + markdown_table((*head, "worst"), rows)
    )


def speed(folder: Path) -> Part:
    """Frame times of the benchmark by model and steps."""
    found = find(folder, "benchmark_*.json")
    if not found:
        return absent("Speed", "benchmark")
    rows = []
    for one in found:
        name = _MODELS.get(one.setup["model"], one.setup["model"])
        for steps in (1, 2):
            cells = [
                number(one.values.get(f"frame_ms/{precision}/{steps}/{kind}"), 2)
                for precision in ("bfloat16", "float8_e4m3fn")
                for kind in ("p50", "back_to_back")
            ]
            if any(cells):
                first = _link(name, one.path) if steps == 1 else ""
                card = one.setup["device"] if steps == 1 else ""
                lagged = one.values.get(_LAGGED) if steps == 1 else None
                rows.append((first, card, str(steps), *cells, number(lagged, 2)))
    head = (
        *("model", "card", "steps", "bfloat16: waited", "back to back"),
        *("float8: waited", "back to back", "lagged commit"),
    )
    return Part(
        markdown_table(head, rows) + "".join(f"\n\n{text}" for text in _passes(folder))
    )


def _passes(folder: Path) -> Iterator[str]:
    """What the kernels are worth, in a sentence a file."""
    for one in find(folder, "pass_*.json"):
        tokens = 256
        times = {
            name: one.values.get(f"pass_ms/{name}/{tokens}/back_to_back")
            for name in ("kernels", "xla")
        }
        floor = one.values.get(f"floor_ms/bfloat16/{tokens}")
        if None not in times.values() and floor is not None:
            model = _MODELS.get(one.setup["model"], one.setup["model"]).split(",")[0]
            yield (
                f"One pass of the {model} model takes {number(times['kernels'], 2)} ms "
                f"by our kernels and {number(times['xla'], 2)} by XLA and cuDNN "
                f"({_link('measured', one.path)}; its floor is {number(floor, 2)})."
            )


def hardware(folder: Path) -> Part:
    """A frame on every card: measured ones, then projections, which have that word."""
    frames = find(folder, "benchmark_*.json")
    rows = [*_measured(frames), *_demos(folder), *_projected(frames)]
    if not rows:
        return absent("A frame on several cards", "benchmark")
    head = ("device", "default model", "880M model", "how it is known")
    return Part(
        f"Milliseconds of a waited frame of {_SIZE}x{_SIZE}, one step, merged "
        "commit, bfloat16 where nothing else is said. A projection is no measurement: "
        "it takes a card to be as far above its floor as the measured one is above its "
        "own:\n\n" + markdown_table(head, rows)
    )


def _measured(frames: list[Found]) -> Iterator[tuple[str, ...]]:
    for device in dict.fromkeys(one.setup["device"] for one in frames):
        here = {one.setup["model"]: one for one in frames if _device(one) == device}
        cells = [
            number(here[model].values.get(_WAITED), 2) if model in here else ""
            for model in _MODELS
        ]
        links = (_link(model, one.path) for model, one in here.items())
        yield device, *cells, f"measured by the benchmark ({', '.join(links)})"


def _demos(folder: Path) -> Iterator[tuple[str, ...]]:
    found = [(p, told) for p, told in summaries(folder) if told["model"] == "default"]
    for path, told in sorted(found, key=lambda one: one[1]["frame_ms"]["p50"]):
        name = "a CPU" if told["platform"] == "cpu" else told["device"]
        digits = 0 if told["platform"] == "cpu" else 2
        how = f"{_link('measured', path)} by `make demo`"
        if told["precision"] != "bfloat16":
            how += f", {told['precision']}"
        if told["commit"] != "merged":
            how += f", {told['commit']} commit"
        yield name, number(told["frame_ms"]["p50"], digits), "", how


def _projected(frames: list[Found]) -> Iterator[tuple[str, ...]]:
    """Of cards that no benchmark ran on, from the first one of each model."""
    seen = {KINDS.get(_device(one)) for one in frames}
    stages = "stage_ms/bfloat16/1/pass/p50"
    timed = [one for one in frames if {_WAITED, stages} <= one.values.keys()]
    for chip in (chip_of(name) for name in _ABSENT if timed and name not in seen):
        cells = []
        for model in _MODELS:
            config, stream = model_config(model), StreamConfig(_SIZE, _SIZE)
            parts = frame_parts(config, stream)
            cell = f"floor {number(frame_floor_ms(parts, chip), 2)}"
            for one in [one for one in timed if one.setup["model"] == model][:1]:
                measured = read_measured(str(one.path), model, config, stream)
                found = projections(Roofline(chip.name, chip, parts), measured)
                if "frame" in found:
                    cell = f"projection {number(found['frame'], 1)}, {cell}"
            cells.append(cell)
        how = "projected from the benchmark ([roofline](docs/roofline.md))"
        yield chip.name, *cells, how


def _device(one: Found) -> str:
    return str(one.setup["device"])


def _link(text: str, path: Path) -> str:
    """Markdown that leads to a file from the README."""
    return f"[{text}](docs/results/{path.name})"
