"""Block of the results page: every result file, what wrote it, where, what it found."""

import ast
import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.report_records import Part, read_log
from mirage_jax.errors import MirageError
from mirage_jax.results import A_COMMIT, Result, read_record

# By the script that writes it: what a file is about, and names of the results that a
# reader looks for first. A script that is not here gets its own name and no numbers.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "experiments/evaluate.py": ("Quality", ("psnr_mean/*/512/1", "psnr_mean/*/1")),
    "experiments/drift.py": ("Drift", ("frames", "psnr_slope_per_1000/*")),
    "experiments/heal.py": ("Faults that heal", ("heal_frames/*",)),
    "experiments/steering.py": ("Steering", ("*",)),
    "experiments/variants.py": ("Variants", ("*",)),
    "experiments/train_codec.py": (
        "Training of the codec",
        ("psnr_codec/raw/*", "step", "elapsed_s", "psnr_*"),
    ),
    "experiments/train_denoiser.py": (
        "Training of the denoiser",
        ("step", "elapsed_s", "loss"),
    ),
    "experiments/bench_train.py": ("Training speed", ("*",)),
    "experiments/bench_clip_attention.py": (
        "Attention of training clips",
        ("ms/gradient/*", "ms/forward/*"),
    ),
    "main.py": ("The demo", ("frame_ms/p50", "frame_ms/p95", "fps")),
    "experiments/benchmark.py": (
        "Frame time",
        ("frame_ms/*/p50", "frame_ms/*/back_to_back"),
    ),
    "experiments/bench_pass.py": ("Passes", ("pass_ms/*/back_to_back", "floor_ms/*")),
    "experiments/bench_kernels.py": ("Kernels", ("us/*/mosaic", "us/*/triton", "us/*")),
    "experiments/kernel_quality.py": ("Price of kernels", ("psnr_change/*/mean/*",)),
    "experiments/check_memory.py": ("Memory checks", ("errors/*",)),
    "experiments/roofline.py": (
        "Floors and projections",
        (
            "floor_ms/*/pass",
            "floor_ms/*/frame",
            "projection_ms/*",
            "memory_gib/*/total",
        ),
    ),
    "experiments/peers/bench.py": ("Rivals", ("rival_ms/*/p50",)),
    "experiments/count_program.py": ("Program counts", ("kernels/*",)),
    "experiments/host_timeline.py": ("Host timeline", ("call_us/*", "kernel_us/*")),
    "experiments/bench_live.py": ("Live", ("fps/*", "glass_to_glass_ms/*/p50")),
    "experiments/soak_live.py": ("Live under load", ("*/clients", "exit_status")),
}
_SHOWN = 6
_DEMO = "main.py"
_SAYS = ("date", "commit", "command")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one file says, whatever its form.

    Attributes:
      path: where it lies.
      script: that wrote it, from the root.
      setup: under what.
      results: by name.
    """

    path: Path
    script: str
    setup: Mapping[str, Any]
    results: Mapping[str, Result]


def files(folder: Path) -> Part:
    """All files of the folder, by the script that wrote them."""
    entries = [_entry(path) for path in sorted(folder.glob("*.json*"))]
    known = {script: place for place, script in enumerate(KINDS)}
    scripts = {entry.script for entry in entries}
    parts = []
    for script in sorted(scripts, key=lambda name: (known.get(name, 99), name)):
        here = [entry for entry in entries if entry.script == script]
        parts.append("\n".join([_heading(script), *map(_told, here)]))
    return Part("\n\n".join(parts) or "No file yet.")


def _entry(path: Path) -> Entry:
    """One file: a record, a log of a training, or the summary of a demo.

    Raises:
      MirageError: it is none of them.
    """
    if path.suffix == ".jsonl":
        script = "_".join(path.stem.split("_")[:2])
        return Entry(path, f"experiments/{script}.py", {}, _log(path))
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MirageError(f"cannot read results from {path}: {error}") from error
    if "frame_ms_means" in read:
        setup = {name: read[name] for name in ("device", "jax", *_SAYS) if name in read}
        times = {f"frame_ms/{k}": v for k, v in read["frame_ms"].items()}
        results = [Result(name, value, "ms", "lower") for name, value in times.items()]
        results.append(Result("fps", read["fps"], "1/s"))
        return Entry(path, _DEMO, setup, {one.name: one for one in results})
    record = read_record(path)
    return Entry(path, record.script, record.setup, record.results)


def _log(path: Path) -> dict[str, Result]:
    """The last line of a training's log."""
    return {name: Result(name, v, "") for name, v in read_log(path)[-1].items()}


def _heading(script: str) -> str:
    """Title, what the script says of itself, and the script."""
    title = KINDS[script][0] if script in KINDS else script
    source = Path(__file__).parent.parent / script
    if not source.exists():
        raise MirageError(f"a result file names {script}, which is not there")
    said = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return f"## {title}\n\n{said.splitlines()[0]} [`{script}`](../{script})\n"


def _told(entry: Entry) -> str:
    """A file in a few lines."""
    setup = entry.setup
    told = [str(setup["device"])] if "device" in setup else []
    for label, name in (("JAX", "jax"), ("Python", "python")):
        told += [f"{label} {setup[name]}"] if name in setup else []
    # In records from before they said so, "commit" may be how the stream commits.
    commit = str(setup.get("commit"))
    said = {
        "day": setup.get("date"),
        "commit": commit if A_COMMIT.fullmatch(commit) else None,
        "command": setup.get("command"),
    }
    if said["day"]:
        told.append(said["day"])
    if said["commit"]:
        digits, _, edited = commit.partition("-")
        told.append(f"commit `{digits[:12]}`{' with edits' * bool(edited)}")
    if unsaid := [name for name, text in said.items() if not text]:
        told.append(f"{', '.join(unsaid)} not recorded")
    lines = [f"- [{entry.path.name}](results/{entry.path.name})", ", ".join(told)]
    if said["command"]:
        lines.append(f"`{said['command']}`")
    lines.append(_numbers(entry))
    return "  \n  ".join(lines)


def _numbers(entry: Entry) -> str:
    """The first ones, and how many there are."""
    chosen = [f"`{r.name}` {r.value:.4g} {r.unit}".rstrip() for r in headlines(entry)]
    count = f"{len(entry.results)} numbers"
    return f"{count}: {', '.join(chosen)}" if chosen else count


def headlines(entry: Entry) -> list[Result]:
    """What a reader looks for first, in the order of the patterns, without doubles."""
    _, patterns = KINDS.get(entry.script, ("", ()))
    return list(_matching(entry.results, patterns))[:_SHOWN]


def _matching(
    results: Mapping[str, Result], patterns: tuple[str, ...]
) -> Iterator[Result]:
    names = [n for pattern in patterns for n in fnmatch.filter(results, pattern)]
    return (results[name] for name in dict.fromkeys(names))
