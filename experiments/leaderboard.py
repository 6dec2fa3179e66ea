"""Checks the submissions of the leaderboard and writes its page.

    python -m experiments.leaderboard
    python -m experiments.leaderboard --check
    python -m experiments.leaderboard --add=docs/results/benchmark_x.json --who=NAME

Run from the root of the repository. Every file in docs/leaderboard/submissions must
have the form of schema.json and state exactly the numbers of its result files, which
lie in docs/results; then index.md is written. --check writes nothing and exits with 1
where the page is not that of the submissions. --add makes the submissions from a
benchmark's result file first, with the evidence of quality and drift that fits it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.command import command
from experiments.leaderboard_page import render
from experiments.submission import faults, file_name, make_submissions, not_ranked
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import write_whole

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; is the page up to date?")
_ADD = flags.DEFINE_string("add", None, "Result file of a benchmark to submit.")
_WHO = flags.DEFINE_string("who", None, "Who measured it.")
_COMMIT = flags.DEFINE_string(
    "commit", None, "Code that ran, 40 digits, where the file does not know it."
)
_STREAMS = flags.DEFINE_integer("streams", 1, "Whose frames a second are taken.")
_QUALITY = flags.DEFINE_string(
    "quality", "docs/results/quality.json", "Evidence of quality to add, if it fits."
)
_DRIFT = flags.DEFINE_string(
    "drift", "docs/results/drift.json", "Evidence of little drift to add, if it fits."
)

FOLDER = Path("docs/leaderboard")


def run() -> None:
    """Adds what is to be added, checks everything, writes the page."""
    if _ADD.value:
        _add(Path(_ADD.value))
    paths = sorted((FOLDER / "submissions").glob("*.json"))
    submissions = {path.name: _read_json(path) for path in paths}
    schema = _read_json(FOLDER / "schema.json")
    wrong = [
        f"{name}: {text}"
        for name, one in submissions.items()
        for text in _faults(name, one, schema)
    ]
    if wrong:
        raise MirageError("; ".join(wrong))
    page, path = render(submissions), FOLDER / "index.md"
    if not _CHECK.value:
        write_whole(path, page.encode())
    elif not path.exists() or path.read_text(encoding="utf-8") != page:
        raise MirageError(
            f"{path} is not the page of its submissions; run: "
            "python -m experiments.leaderboard"
        )
    ranked = sum(not any(not_ranked(one)) for one in submissions.values())
    print(f"{path}: {len(submissions)} submissions, {ranked} of them ranked")


def _add(speed: Path) -> None:
    if _CHECK.value or not _WHO.value or _STREAMS.value < 1:
        raise MirageError("--add needs --who, at least one of --streams and no --check")
    made, left_out = make_submissions(
        speed,
        Path(_QUALITY.value),
        Path(_DRIFT.value),
        _WHO.value,
        _COMMIT.value,
        _STREAMS.value,
    )
    schema = _read_json(FOLDER / "schema.json")
    for one in made:
        name = file_name(one)
        if wrong := list(_faults(name, one, schema)):
            raise MirageError(f"{speed} makes no submission: {'; '.join(wrong)}")
        text = json.dumps(one, indent=1, ensure_ascii=False) + "\n"
        write_whole(FOLDER / "submissions" / name, text.encode())
        print(f"added {name}")
    for text in left_out:
        print(f"left out of {text}")


def _faults(name: str, submission: Any, schema: Any) -> Iterator[str]:
    """What is wrong with its form; if nothing, with what it states."""
    try:
        # One of the tools of the tests: what runs a stream does without it.
        import jsonschema
    except ImportError as error:
        raise MirageError("jsonschema is not installed: run make setup-dev") from error
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(submission))
    if errors:
        yield from (f"{error.json_path}: {error.message}" for error in errors)
        return
    if name != file_name(submission):
        yield f"the file's name should be {file_name(submission)}"
    yield from faults(submission)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MirageError(f"cannot read {path}: {error}") from error


main = command("leaderboard", run)

if __name__ == "__main__":
    app.run(main)
