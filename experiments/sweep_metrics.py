"""What a run left in its folder: its result files and the curves of its training."""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.sweep_runs import RECORD, Outcome, Run
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, read_record

CURVES = "metrics.jsonl"  # of mirage_jax/training/log.py
SECONDS = "seconds"

_MOST_NAMES = 8


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number to compare runs by.

    Attributes:
      name: of a result or of a curve.
      better: "lower" or "higher"; None: as the result file says.
    """

    name: str
    better: str | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run, how it ended, and what it measured.

    Attributes:
      results: by name; of a curve the last value.
      curve: (seconds of training, the first metric), ...; empty where none was written.
    """

    run: Run
    outcome: Outcome
    results: Mapping[str, Result]
    curve: Sequence[tuple[float, float]] = ()


def parse_metrics(texts: Sequence[str]) -> list[Metric]:
    """`NAME`, `NAME:lower` or `NAME:higher`.

    Raises:
      MirageError: none, or one without a name.
    """
    if not texts:
        raise MirageError("nothing to compare runs by: name a number by --metric")
    found = []
    for text in texts:
        name, _, better = text.rpartition(":")
        if better not in ("lower", "higher"):
            name, better = text, ""
        if not name:
            raise MirageError(f"--metric={text}: give NAME, NAME:lower or NAME:higher")
        found.append(Metric(name, better or None))
    return found


def measured(run: Run, outcome: Outcome, metrics: Sequence[Metric]) -> Measured:
    """Reads the folder of a run; what did not finish has no results.

    Raises:
      MirageError: a metric is of a curve, which does not say what is better.
    """
    if outcome.exit_status != 0:
        return Measured(run, outcome, {})
    recorded = _recorded(run.folder)
    curves = _curves(run.folder / CURVES)
    results = {
        SECONDS: Result(SECONDS, round(outcome.seconds, 3), "s", "lower"),
    }
    for metric in metrics:
        if metric.name in recorded:
            found = recorded[metric.name]
            better = metric.better or found.better
            results[metric.name] = dataclasses.replace(found, better=better)
        elif metric.name in curves:
            if metric.better is None:
                raise MirageError(
                    f"--metric={metric.name} is the name of a curve, which does not "
                    f"say what is better: give {metric.name}:lower or :higher"
                )
            value = curves[metric.name][-1][1]
            results[metric.name] = Result(metric.name, value, "", metric.better)
    return Measured(run, outcome, results, curves.get(metrics[0].name, ()))


def check_names(found: Sequence[Measured], metrics: Sequence[Metric]) -> None:
    """Refuses a metric that no finished run has.

    Raises:
      MirageError: with the names that one of them has, the most similar first.
    """
    finished = [one.run for one in found if one.outcome.exit_status == 0]
    if not finished:
        return
    for metric in metrics:
        if not any(metric.name in one.results for one in found):
            folder = finished[0].folder
            names = [*_recorded(folder), *_curves(folder / CURVES), SECONDS]
            like = difflib.get_close_matches(metric.name, names, _MOST_NAMES, 0.0)
            raise MirageError(
                f"--metric={metric.name}: no run has it; {folder} has "
                f"{', '.join(like)}{', ...' if len(like) < len(names) else ''}"
            )


def _recorded(folder: Path) -> dict[str, Result]:
    """Of all result files that lie in a folder, which may hold other JSON."""
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != RECORD:
            try:
                found |= read_record(path).results
            except MirageError:
                continue
    return found


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """By name: (seconds of training, value) of each line that gives both."""
    found: dict[str, list[tuple[float, float]]] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            seconds = float(record.pop("elapsed_s"))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill has torn
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((seconds, float(value)))
    return found
