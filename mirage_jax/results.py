"""Writes and reads what an experiment measured: one JSON file of one fixed form.

    {"script": ..., "setup": {...},
     "results": [{"name", "value", "unit", "better": "lower" | "higher"}, ...]}

Names are paths ("psnr/pencil/512/1"), so that anything can read them. Of most numbers
more is better, and what says nothing is one of them.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jaxlib

from mirage_jax.errors import MirageError
from mirage_jax.staged_file import write_whole

A_COMMIT = re.compile(r"[0-9a-f]{40}(-dirty)?")  # of the code


@dataclasses.dataclass(frozen=True)
class Result:
    """One measured number.

    Attributes:
      name: path of the number, unique within its file.
      value: finite.
      unit: of the value, for example "dB" or "ms".
      better: "higher" or "lower".
    """

    name: str
    value: float
    unit: str
    better: str = "higher"

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip("/ "):
            raise ValueError(f"a result needs a plain path as name: {self.name!r}")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name}: the value is not finite: {self.value!r}")
        if self.better not in ("lower", "higher"):
            raise ValueError(f"{self.name}: {self.better=} is not lower or higher")


@dataclasses.dataclass(frozen=True)
class Record:
    """What one run of a script measured.

    Attributes:
      script: that wrote it.
      setup: under what it was measured.
      results: by name.
    """

    script: str
    setup: Mapping[str, Any]
    results: Mapping[str, Result]


def device_setup() -> dict[str, Any]:
    """What every record says: device, JAX and Python, and which code ran when and how.

    "date" is that of the day in UTC; "commit" has 40 digits, with "-dirty" behind them
    where tracked files were edited, and is None outside a checkout.
    """
    devices = jax.local_devices()
    return {
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "command": _command(),
    }


def _commit() -> str | None:
    root = pathlib.Path(__file__).parent.parent
    if not (root / ".git").exists():  # installed: an outer checkout is another project
        return None
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        run = subprocess.run(
            describe, cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _command() -> str:
    """What was called; of folders outside of the project only the last name is told."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec else [os.path.basename(sys.argv[0])]
    told = [re.sub(r"(^|[=,])/(?:[^/,]+/)*", r"\1", word) for word in sys.argv[1:]]
    return shlex.join(["python", *program, *told])


def write_results(
    path: str | os.PathLike[str],
    script: str,
    setup: Mapping[str, Any],
    results: Iterable[Result],
) -> None:
    """Writes the file whole or not at all.

    Whole numbers, which count something, are kept as they are, others to 6 digits.

    Raises:
      ValueError: two results share a name, or `commit` of the setup is not the code's.
      MirageError: the file cannot be written.
    """
    results = list(results)
    names = [result.name for result in results]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"result names must be unique; given twice: {doubled}")
    commit = setup.get("commit")
    if commit is not None and not A_COMMIT.fullmatch(commit):
        raise ValueError(f"the setup's commit is that of the code: {commit!r}")
    head = {"script": script, "setup": dict(setup)}
    opened = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
    # A result is a line: files of a thousand results stay small and can be compared.
    lines = [json.dumps(_row(result), separators=(",", ":")) for result in results]
    listed = ",\n  ".join(lines)
    text = f'{opened},\n "results": [\n  {listed}\n ]\n}}\n'
    write_whole(path, text.encode())


def _row(result: Result) -> dict[str, Any]:
    row = dataclasses.asdict(result) | {"value": _told(result.value)}
    if result.better == "higher":
        del row["better"]
    return row


def _told(value: float) -> float:
    """Six digits: more than a measurement knows, so that what is quoted rounds well."""
    return value if float(value).is_integer() else float(f"{value:.6g}")


def read_record(path: str | os.PathLike[str]) -> Record:
    """What `write_results` wrote.

    Raises:
      MirageError: the file cannot be read or has another form.
    """
    try:
        record = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        results = [Result(**result) for result in record["results"]]
        return Record(
            script=record["script"],
            setup=dict(record["setup"]),
            results={result.name: result for result in results},
        )
    except KeyError as error:
        raise MirageError(
            f"cannot read results from {path}: it has no {error}; take a file that a "
            "script of experiments wrote"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise MirageError(f"cannot read results from {path}: {error}") from error


def read_results(path: str | os.PathLike[str]) -> dict[str, float]:
    """Name to value of a file that `write_results` wrote; raises as `read_record`."""
    return {name: result.value for name, result in read_record(path).results.items()}
