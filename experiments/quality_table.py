"""Block of the page of quality: everything that the evaluation measured, in tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.page_block import markdown_table, number
from experiments.report_records import Part, absent, commit_mode, find
from mirage_jax.errors import MirageError

STEPS = (1, 2, 4)
DRIFT_STEPS = (1, 2)


def tables(folder: Path) -> Part:
    """Means, a table for each size, long runs, missed bars.

    Raises:
      MirageError: the file cannot be read or is no record of quality.
    """
    found = find(folder, "quality.json")
    if not found:
        return absent("Quality", "evaluate")
    [one] = found
    setup, values = one.setup, one.values
    kinds = setup.get("styles")
    if not isinstance(kinds, dict):
        raise MirageError(
            f"{one.path} is no record of quality: write it by experiments/evaluate.py"
        )
    sizes = sorted({int(n.split("/")[2]) for n in values if n.startswith("psnr/")})
    parts = [_setting(setup, values), _means(values, kinds, sizes)]
    parts += [_styles(values, kinds, size) for size in sizes]
    parts += [_long_runs(values, kinds, setup), _missed(values)]
    return Part("\n\n".join(part for part in parts if part))


def _setting(setup: Mapping[str, Any], values: Mapping[str, float]) -> str:
    checks = [value for name, value in values.items() if name.startswith("check/")]
    passed = sum(value == 1 for value in checks)
    files = sorted({clip.split(":")[0] for clip in setup["clips"]})
    return (
        f"Weights `{setup['weights_sha256'][:16]}`, {setup['precision']}, "
        f"{commit_mode(setup)} commit; {setup['device']}, JAX {setup['jax']}. "
        f"{len(setup['clips'])} clips of {setup['clip_frames']} frames from "
        f"{', '.join(files)}; {setup['wording'].replace('_', '-')} wordings. "
        f"{passed} of {len(checks)} bars cleared."
    )


def _means(
    values: Mapping[str, float], kinds: Mapping[str, str], sizes: Sequence[int]
) -> str:
    rows = []
    for size in sizes:
        for kind in dict.fromkeys(kinds.values()):
            cells = [
                number(values.get(f"psnr_mean/{kind}/{size}/{steps}"), 2)
                for steps in STEPS
            ]
            gap = number(values.get(f"codec_gap_mean/{kind}/{size}/1"), 2)
            ssim = number(values.get(f"ssim_mean/{kind}/{size}/1"), 3)
            rows.append((f"{size}", kind, *cells, ssim, gap))
        codec = values.get(f"codec/psnr/{size}")
        if codec is not None:
            rows.append((f"{size}", "codec alone", number(codec, 2), "", "", "", ""))
    head = (
        *("size", "styles", "PSNR, 1 step", "2 steps", "4 steps"),
        *("SSIM, 1 step", "below the codec, dB"),
    )
    return "Means in dB, over styles of a kind:\n\n" + markdown_table(head, rows)


def _styles(values: Mapping[str, float], kinds: Mapping[str, str], size: int) -> str:
    rows = []
    for style, kind in kinds.items():
        here = f"{style}/{size}"
        names = (
            *(f"psnr/{here}/{steps}" for steps in STEPS),
            f"psnr_source/{here}",
            f"psnr_colour_transfer/{here}",
            f"psnr_codec/{here}",
            f"memory_gain/{here}/1",
        )
        cells = [number(values.get(name), 2) for name in names]
        cells.insert(3, number(values.get(f"ssim/{here}/1"), 3))
        rows.append((f"{style}", kind, *cells))
    head = (
        *("style", "kind", "1 step", "2 steps", "4 steps", "SSIM, 1 step"),
        *("source", "colour transfer", "codec", "memory gain"),
    )
    return f"{size}x{size}, PSNR in dB:\n\n" + markdown_table(head, rows)


def _long_runs(
    values: Mapping[str, float], kinds: Mapping[str, str], setup: Mapping[str, Any]
) -> str:
    rows = []
    for style in kinds:
        cells = [
            number(values.get(f"{measure}/{style}/{steps}"), 2)
            for steps in DRIFT_STEPS
            for measure in (
                "psnr_first",
                "drift_last_minus_first",
                "drift_last_minus_early",
            )
        ]
        if any(cells):
            rows.append((style, *cells))
    if not rows:
        return ""
    run = setup["long_run"]
    head = ("style",) + tuple(
        f"{name}, {steps} step{'s' * (steps > 1)}"
        for steps in DRIFT_STEPS
        for name in ("frames 0-7", "last - first", "last - early")
    )
    return (
        f"{run['frames']} frames of streaming at {run['size']}x{run['size']}, PSNR in "
        "dB: the opening, and what the last loop of the clip has gained or lost on the "
        "same source frames:\n\n" + markdown_table(head, rows)
    )


def _missed(values: Mapping[str, float]) -> str:
    names = [
        name.removeprefix("check/") for name in values if name.startswith("check/")
    ]
    missed = [f"- `{name}`" for name in names if values[f"check/{name}"] != 1]
    return "Bars that were missed:\n\n" + "\n".join(missed) if missed else ""
