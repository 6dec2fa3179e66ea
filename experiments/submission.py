"""One entry of the leaderboard: made from result files, and held against them.

A submission states no number of its own. Everything in it but `who` is what its result
files say, so that making one and checking one are the same reading of those files.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mirage_jax.errors import MirageError
from mirage_jax.evaluation.checks import DRIFT, LEAST_MEAN
from mirage_jax.results import Record, read_record

Submission = Mapping[str, Any]

RESULTS = Path("docs/results")
PERCENTILES = ("p50", "p95", "p99")
# What a submission takes over from the setup of the file of each kind.
SETUP: dict[str, tuple[str, ...]] = {
    "speed": (
        *("date", "commit", "command", "device", "jax"),
        *("model", "weights_sha256", "height", "width"),
    ),
    "quality": ("model", "weights_sha256", "precision"),
    "drift": ("model", "weights_sha256", "precision"),
}
_SLOPE = "psnr_slope_per_1000/"


def make_submissions(
    speed: Path, quality: Path, drift: Path, who: str, commit: str | None, streams: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """A submission for every precision and number of steps that a benchmark timed.

    Args:
      speed: result file of the benchmark, in docs/results.
      quality, drift: the same of the evaluation; left out where they do not fit.
      who: measured.
      commit: of the code that ran, where the record does not know it.
      streams: of which frames a second are taken.

    Returns:
      The submissions, and why evidence was left out of some.

    Raises:
      MirageError: the file is elsewhere, is no benchmark or does not say what ran.
    """
    record = read_record(_in_results(speed))
    known = {**record.setup, "commit": record.setup.get("commit") or commit}
    unsaid = [key for key in SETUP["speed"] if known.get(key) is None]
    if set(unsaid) - {"weights_sha256"}:  # random weights have none
        raise MirageError(
            f"{speed} does not say {', '.join(unsaid)}: run the benchmark again from a "
            "checkout, or give --commit"
        )
    combinations = _timed(record)
    if not combinations:
        raise MirageError(f"{speed} has no frame_ms/<precision>/<steps>/p50")
    made, left_out = [], []
    for precision, steps in combinations:
        one: dict[str, Any] = {"who": who}
        one |= {key: known.get(key) for key in SETUP["speed"]}
        one |= {"precision": precision, "steps": steps, "streams": streams}
        for kind, path in (("speed", speed), ("quality", quality), ("drift", drift)):
            if kind != "speed" and not path.exists():
                left_out.append(f"{file_name(one)}: no {kind}, {path} does not exist")
                continue
            found = read_record(_in_results(path))
            values = evidence(kind, found, one)
            problems = list(_other_setup(kind, found, one))
            if not values:
                problems.append("it has no number of this size and these steps")
            if problems:
                left_out.append(f"{file_name(one)}: no {kind} of {path}: {problems[0]}")
            else:
                one[kind] = {"file": path.as_posix(), "values": values}
        made.append(one)
    return made, left_out


def file_name(submission: Submission) -> str:
    """One file a program, device and submitter: a newer measurement replaces it."""
    size = f"{submission['height']}x{submission['width']}"
    parts = (
        *(submission["device"], submission["model"], size, submission["precision"]),
        *(f"{submission['steps']}_steps", submission["who"]),
    )
    slugs = (re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in parts)
    return "-".join(slugs) + ".json"


def evidence(kind: str, record: Record, submission: Submission) -> dict[str, float]:
    """The numbers that a submission has to state of a record, all of them.

    "speed": percentiles of the frame time, and frames a second where the record counts
    them for this program. "quality": the mean PSNR of every kind of style at its size
    and steps. "drift": the slope of the style that fares worst in the mode that was
    timed.
    """
    values = {name: result.value for name, result in record.results.items()}
    precision, steps = submission["precision"], submission["steps"]
    if kind == "speed":
        family = f"frame_ms/{precision}/{steps}"
        names = [f"{family}/{percentile}" for percentile in PERCENTILES]
        # Frames a second have no precision in their name: the setup says whose.
        said = record.setup.get("precision"), record.setup.get("steps")
        if (precision, steps) == said or [(precision, steps)] == _timed(record):
            names.append(f"fps/{submission['streams']}")
        return {name: values[name] for name in names if name in values}
    if kind == "quality":
        means = rf"psnr_mean/\w+/{submission['height']}/{steps}"
        square = submission["height"] == submission["width"]
        names = [name for name in values if square and re.fullmatch(means, name)]
        return {name: values[name] for name in sorted(names)}
    # A benchmark's rows have the merged commit. Names say the mode, but for the first.
    mode, modes = f"merged/{steps}", record.setup.get("modes", [])
    behind = "" if modes[:1] == [mode] else f"/{mode}"
    slopes = sorted(
        (value, name)
        for name, value in values.items()
        if mode in modes and re.fullmatch(f"{_SLOPE}[^/]+{behind}", name)
    )
    return {name: value for value, name in slopes[:1]}


def faults(submission: Submission) -> Iterator[str]:
    """What a submission that has the schema's form states against its result files."""
    for kind in SETUP:
        if kind not in submission:
            continue
        path, stated = submission[kind]["file"], submission[kind]["values"]
        try:
            record = read_record(path)
        except MirageError as error:
            yield f"{kind}: {error}"
            continue
        yield from (
            f"{kind}: {text}" for text in _other_setup(kind, record, submission)
        )
        wanted = evidence(kind, record, submission)
        for name in sorted(wanted.keys() | stated.keys()):
            ours, theirs = stated.get(name), wanted.get(name)
            if ours != theirs:
                yield f"{kind}: {name} is {ours} here and {theirs} in {path}"
    family = f"frame_ms/{submission['precision']}/{submission['steps']}"
    for percentile in PERCENTILES:
        if f"{family}/{percentile}" not in submission["speed"]["values"]:
            yield f"speed: there is no {family}/{percentile}"


def not_ranked(submission: Submission) -> Iterator[str]:
    """Why a submission has no rank: evidence that it lacks, or the gate of quality.

    The bars are those of the shipped weights: mean PSNR by kind of style, and how much
    PSNR may fall in 1,000 frames.
    """
    for kind in ("quality", "drift"):
        if kind not in submission:
            yield f"unverified: no {kind}"
    values = submission["quality"]["values"] if "quality" in submission else {}
    means = {name.split("/")[1]: value for name, value in values.items()}
    for kind, bound in LEAST_MEAN.items():
        if means and kind not in means:
            yield f"unverified: no quality of {kind} styles"
        elif means and means[kind] < bound:
            yield f"PSNR of {kind} styles is below {bound:g} dB"
    drift = submission["drift"]["values"] if "drift" in submission else {}
    for name, slope in drift.items():
        if slope < -DRIFT:
            style = name.removeprefix(_SLOPE)
            yield f"{style} drifts by more than {DRIFT:g} dB in 1,000 frames"


def _other_setup(kind: str, record: Record, submission: Submission) -> Iterator[str]:
    for key in SETUP[kind]:
        ours, theirs = submission[key], record.setup.get(key)
        if key == "commit" and theirs is None:
            continue  # measured outside a checkout: the submitter's word
        if ours != theirs:
            yield f"{key} is {ours} in the submission and {theirs} in the file"
    if kind != "speed" and submission["weights_sha256"] is None:
        yield "weights without a hash prove nothing"


def _timed(record: Record) -> list[tuple[str, int]]:
    """Precision and steps of every program with a frame time."""
    matches = (
        re.fullmatch(r"frame_ms/(\w+)/(\d+)/p50", name) for name in record.results
    )
    return [(match[1], int(match[2])) for match in matches if match]


def _in_results(path: Path) -> Path:
    if path.parent != RESULTS:
        raise MirageError(f"{path} is no file of {RESULTS}: move it there, it is kept")
    return path
