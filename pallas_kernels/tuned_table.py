"""Measured tables: `tuned/<device>.json`, one a device, read where there is one.

    {"device": ..., "jax": ..., "<op>": [{"problem": {...}, "config": {...},
                                          "microseconds": {"<backend>": ...}}, ...]}

Written by `experiments/autotune.py` on the device itself.
"""

import functools
import json
import pathlib
import warnings
from typing import Any

from pallas_kernels.device import Device

FOLDER = pathlib.Path(__file__).parent / "tuned"


def path_of(device: Device) -> pathlib.Path:
    """Where the table of a device lies."""
    return FOLDER / f"{device.slug}.json"


@functools.cache
def entries(device: Device, op: str) -> tuple[dict[str, Any], ...]:
    """What was measured for an operation; nothing where there is no readable table.

    A broken table costs speed, not the stream: it is reported once and left alone.
    """
    path = path_of(device)
    try:
        table = json.loads(path.read_text())
        found = tuple(table.get(op, ()))
        if not all(
            {"problem", "config", "microseconds"} <= row.keys() for row in found
        ):
            raise ValueError("a row lacks problem, config or microseconds")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        warnings.warn(f"unreadable table {path}: {error}", RuntimeWarning, stacklevel=2)
        return ()
    return found
