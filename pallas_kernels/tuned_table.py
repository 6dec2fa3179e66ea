"""Measured tables: `tuned/<device>.json`, one a device; cards of one chip share them.

    {"device": ..., "capability": [9, 0], "cores": 132, "jax": ...,
     "<op>": [{"problem": {...}, "configs": {"<backend>": {...}},
               "microseconds": {"<backend>": ...}}, ...]}

Written by `experiments/autotune.py` on the device itself.
"""

import json
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pallas_kernels.device import Device

FOLDER = pathlib.Path(__file__).parent / "tuned"


def path_of(device: Device) -> pathlib.Path:
    """Where the table of a device lies, or would."""
    return FOLDER / f"{device.slug}.json"


def entries(device: Device, op: str) -> tuple[tuple[pathlib.Path, dict[str, Any]], ...]:
    """What was measured for an operation: rows, and the table that each is from.

    The device's own table comes first. It need not be whole: behind it come those of
    other cards with the same chip, which is the capability and the number of cores. An
    H200 is an H100 with more and faster memory, and what is fast on one is fast on the
    other. A broken table costs speed, not the stream: it is reported and left alone.
    """
    own = path_of(device)
    found: list[tuple[pathlib.Path, dict[str, Any]]] = []
    for path in (own, *sorted({*FOLDER.glob("*.json")} - {own})):
        try:
            table = json.loads(path.read_text())
            chip = table.get("capability"), table.get("cores")
            if path != own and chip != ([*device.capability], device.cores):
                continue
            rows = tuple(table.get(op, ()))
            if not all(
                {"problem", "configs", "microseconds"} <= row.keys() for row in rows
            ):
                raise ValueError("a row lacks problem, configs or microseconds")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError, TypeError) as error:
            warnings.warn(
                f"unreadable table {path}: {error}", RuntimeWarning, stacklevel=2
            )
            continue
        found += [(path, row) for row in rows]
    return tuple(found)


def write(
    path: pathlib.Path, device: Device, op: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Puts rows into a device's table, whole or not at all.

    A new row takes the place of an old one of the same problem; rows of other
    problems and other operations stay. A broken table is replaced.
    """
    try:
        table = dict(json.loads(path.read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        table = {}
    new = [row["problem"] for row in rows]
    kept = [row for row in table.get(op, ()) if row["problem"] not in new]
    head = {
        "device": device.kind,
        "capability": device.capability,
        "cores": device.cores,
        "jax": jax.__version__,
    }
    lines = [f' "{name}": {json.dumps(value)}' for name, value in head.items()]
    for name, listed in (table | {op: [*kept, *rows]}).items():
        if name not in head:
            # A row is a line, so that what another measurement changed can be read.
            told = ",\n  ".join(json.dumps(row) for row in listed)
            lines.append(f' "{name}": [\n  {told}\n ]')
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    temporary.replace(path)
