"""Compares result files: what got worse, what got better, what is no longer measured.

    python -m experiments.compare base.json new.json
    python -m experiments.compare --base=a1.json,a2.json --new=b1.json,b2.json

Repeats are paired in order, so take them in turn, base, new, base, new: a change then
counts where the sign test's 95 % interval of the median ratio excludes none at all, for
which it takes six pairs. A single pair has to surpass the spread that the files state.
Either way a change smaller than --percent never counts. PSNR, SSIM and everything else
in dB may not fall by more than --quality_db. Records of different devices, JAX
versions, models or precisions are refused.

Exits with 0 where nothing regressed or is missing, with 1 where something did, and with
2 where the files cannot be compared.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from experiments.command import command
from experiments.comparison import (
    Change,
    Comparison,
    Limits,
    compare_records,
    different_setups,
    sign_test_interval,
)
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, read_record, write_results

_BASE = flags.DEFINE_list("base", [], "Result files from before the change.")
_NEW = flags.DEFINE_list("new", [], "Result files from after it, in the same order.")
_PERCENT = flags.DEFINE_float(
    "percent", 2.0, "Smallest change that counts.", lower_bound=0
)
_QUALITY_DB = flags.DEFINE_float(
    "quality_db", 0.05, "Smallest change of quality that counts, dB.", lower_bound=0
)
_NAMES = flags.DEFINE_list("names", [], "How compared names begin; all by default.")
_ALLOW = flags.DEFINE_bool(
    "allow_different_setup", False, "Compare what ran under different conditions."
)
_OUT = flags.DEFINE_string("out", None, "Where the comparison goes as JSON; else none.")


def run(*files: str) -> bool:
    """Compares two files, or those of the flags; whether anything got worse."""
    try:
        return _compare(*files)
    except MirageError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(2)  # as diff does: 1 is for files that differ


def _compare(*files: str) -> bool:
    base, new = ([files[0]], [files[1]]) if files else (_BASE.value, _NEW.value)
    if bool(files) == bool(_BASE.value or _NEW.value):
        raise MirageError("give two files, or --base and --new")
    before, after = ([read_record(path) for path in paths] for paths in (base, new))
    different = list(different_setups([*before, *after]))
    if different and not _ALLOW.value:
        raise MirageError(
            f"{'; '.join(different)}: measure both sides alike, or set "
            "--allow_different_setup"
        )
    limits = Limits(_PERCENT.value, _QUALITY_DB.value)
    found = compare_records(before, after, limits, _NAMES.value)
    print(table(found, len(base)))
    if _OUT.value:
        _write(_OUT.value, base, new, found)
    return bool(found.of("regressed") or found.missing)


def table(found: Comparison, repeats: int) -> str:
    """Every name that changed or is missing, a line each; of the others the count."""
    lines = []
    if repeats > 1:
        confidence = sign_test_interval([0.0] * repeats)[2]
        lines.append(f"{repeats} pairs: intervals of {100 * confidence:.1f} %")
    for verdict in ("regressed", "improved"):
        changes = found.of(verdict)
        lines.append(f"{verdict}: {len(changes)}")
        lines += [f"  {_line(change)}" for change in changes]
    lines.append(f"missing: {len(found.missing)}")
    lines += [f"  {name}" for name in found.missing]
    lines.append(f"unchanged: {len(found.of('unchanged'))}; new: {len(found.added)}")
    return "\n".join(lines)


def _line(change: Change) -> str:
    text = (
        f"{change.name}: {change.base:g} -> {change.new:g} {change.unit}".rstrip()
        + f", {change.change:+.2f} {change.change_unit}"
    )
    if change.interval is not None:
        low, high = change.interval
        text += f" ({low:+.2f} to {high:+.2f})"
    return f"{text}, limit {change.threshold:.2f}"


def _write(
    path: str, base: Sequence[str], new: Sequence[str], found: Comparison
) -> None:
    setup = {
        "base": list(base),
        "new": list(new),
        "percent": _PERCENT.value,
        "quality_db": _QUALITY_DB.value,
        "regressed": [change.name for change in found.of("regressed")],
        "improved": [change.name for change in found.of("improved")],
        "missing": list(found.missing),
        "added": list(found.added),
    }
    results = [
        Result("regressed", len(found.of("regressed")), "names", "lower"),
        Result("missing", len(found.missing), "names", "lower"),
        Result("improved", len(found.of("improved")), "names", "higher"),
    ]
    for change in found.changes:
        path_of = f"change/{change.name}"
        results.append(Result(path_of, change.change, change.change_unit, "higher"))
        if change.interval is not None:
            for end, value in zip(("low", "high"), change.interval, strict=True):
                name = f"change_{end}/{change.name}"
                results.append(Result(name, value, change.change_unit, "higher"))
    write_results(path, "experiments/compare.py", setup, results)


main = command("compare", run, operands=2)

if __name__ == "__main__":
    app.run(main)
