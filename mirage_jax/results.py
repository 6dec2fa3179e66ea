"""Writes what an experiment measured: one JSON file of one fixed form.

    {"script": ..., "setup": {...},
     "results": [{"name", "value", "unit", "better": "lower" | "higher"}, ...]}

Names are paths ("psnr/pencil/512/1"), so that anything can read them.
"""

import dataclasses
import json
import math
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jaxlib

from mirage_jax.errors import MirageError
from mirage_jax.staged_file import write_whole


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


def device_setup() -> dict[str, Any]:
    """What every record says about the machine: device, JAX, Python."""
    devices = jax.local_devices()
    return {
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
    }


def write_results(
    path: str | os.PathLike[str],
    script: str,
    setup: Mapping[str, Any],
    results: Iterable[Result],
) -> None:
    """Writes the file whole or not at all.

    Raises:
      ValueError: two results share a name.
      MirageError: the file cannot be written.
    """
    results = list(results)
    names = [result.name for result in results]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"result names must be unique; given twice: {doubled}")
    text = json.dumps(
        {
            "script": script,
            "setup": dict(setup),
            "results": [dataclasses.asdict(result) for result in results],
        },
        indent=1,
        allow_nan=False,
    )
    write_whole(path, (text + "\n").encode())


def read_results(path: str | os.PathLike[str]) -> dict[str, float]:
    """Name to value of a file that `write_results` wrote."""
    try:
        results = _record(path)["results"]
        return {result["name"]: result["value"] for result in results}
    except (KeyError, TypeError) as error:
        raise MirageError(f"cannot read results from {path}: {error}") from error


def read_setup(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The setup that such a file records."""
    setup = _record(path).get("setup")
    if not isinstance(setup, dict):
        raise MirageError(f"cannot read results from {path}: it records no setup")
    return setup


def _record(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        record = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise MirageError(f"cannot read results from {path}: {error}") from error
    if not isinstance(record, dict):
        raise MirageError(f"cannot read results from {path}: it is no JSON object")
    return record
