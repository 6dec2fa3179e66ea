"""The leaderboard as Markdown: the same submissions always give the same page."""

from collections.abc import Iterable, Mapping

from experiments.submission import PERCENTILES, Submission, not_ranked

INTRODUCTION = """\
# Leaderboard

<!-- Written by experiments/leaderboard.py from what is in submissions/: edit that. -->

Frame time is from source uint8 on the device to styled uint8 on the device, one stream,
with encoding and decoding. Programs are ranked by its median among those of the same
device and frame size, and only where result files prove the quality and the drift of
the same weights in the same precision. PSNR is the mean over the styles of a kind;
drift is the slope of the style that fares worst, in dB per 1,000 frames.
"""

SUBMIT = """\
## How to submit

Measure, put the result files into `docs/results`, and let the script write the rest;
[benchmarking](../benchmarking.md) says how. No number is typed by hand.

<!-- not run: needs the result file of a benchmark -->
```bash
python -m experiments.leaderboard --add=docs/results/BENCHMARK.json --who="YOUR NAME"
```

The script refuses a submission whose form is not that of [schema.json](schema.json) or
that states another number than its result file.
"""

HEAD = (
    *("", "model", "precision", "steps", "p50, ms", "p95, ms", "p99, ms"),
    *("frames a second", "PSNR, dB", "drift", "JAX", "code", "who", "files"),
)


def render(submissions: Mapping[str, Submission]) -> str:
    """The page of all submissions, given by file name."""
    ranked: dict[tuple[str, int, int], list[Submission]] = {}
    rest: list[tuple[Submission, str]] = []
    for _, one in sorted(submissions.items()):
        if reasons := "; ".join(not_ranked(one)):
            rest.append((one, reasons))
        else:
            place = one["device"], one["height"], one["width"]
            ranked.setdefault(place, []).append(one)
    parts = [INTRODUCTION]
    for (device, height, width), entries in sorted(ranked.items()):
        entries.sort(key=_median)  # stable: equal times stay in the order of names
        rows = [_row(str(rank), one) for rank, one in enumerate(entries, 1)]
        parts += [f"## {device}, {height}x{width}\n", _table(HEAD, rows)]
    if rest:
        head = ("why", "device", "size", *HEAD[1:])
        rows = [
            (why, one["device"], f"{one['height']}x{one['width']}", *_row("", one)[1:])
            for one, why in rest
        ]
        parts += ["## Not ranked\n", _table(head, rows)]
    if not submissions:
        parts.append("There are no submissions yet.\n")
    return "\n".join([*parts, SUBMIT])


def _median(one: Submission) -> float:
    return one["speed"]["values"][_time(one, "p50")]


def _time(one: Submission, percentile: str) -> str:
    return f"frame_ms/{one['precision']}/{one['steps']}/{percentile}"


def _row(rank: str, one: Submission) -> tuple[str, ...]:
    speed = one["speed"]["values"]
    fps = speed.get(f"fps/{one['streams']}")
    streams = f"{one['streams']} stream{'s' * (one['streams'] > 1)}"
    quality = {
        name.split("/")[1]: value
        for name, value in one.get("quality", {"values": {}})["values"].items()
    }
    commit, dash, dirty = one["commit"].partition("-")
    files = (
        f"[{kind}](../results/{one[kind]['file'].rpartition('/')[2]})"
        for kind in ("speed", "quality", "drift")
        if kind in one
    )
    return (
        *(rank, one["model"], one["precision"], str(one["steps"])),
        *(f"{speed[_time(one, percentile)]:.2f}" for percentile in PERCENTILES),
        "" if fps is None else f"{fps:.1f} ({streams})",
        ", ".join(f"{kind} {value:.2f}" for kind, value in sorted(quality.items())),
        "".join(
            f"{slope:+.3f} ({name.partition('/')[2]})"
            for name, slope in one.get("drift", {"values": {}})["values"].items()
        ),
        one["jax"],
        f"`{commit[:12]}{dash}{dirty}`, {one['date']}",
        one["who"],
        ", ".join(files),
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    texts = (" | ".join(map(_cell, line)) for line in lines)
    return "".join(f"| {text} |\n" for text in texts)


def _cell(text: str) -> str:
    """What a submitter wrote must not end its cell or its row."""
    return " ".join(text.replace("|", r"\|").split())
