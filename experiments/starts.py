"""From the start of a process to its first frame, without and with a filled cache."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mirage_jax.errors import MirageError
from mirage_jax.results import Result

CHILD = ("-m", "experiments.first_frame")
LONGEST_S = 300
KINDS = ("cold", "warm")


def time_starts(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """Starts the same stream twice, each time in a process of its own.

    Both share a folder for compiled programs, JAX's and the driver's, which is empty
    at first: the first start is cold, the second one warm.

    Args:
      arguments: of experiments/first_frame.py.

    Returns:
      By kind what the child says, with "total", the seconds until its first frame.

    Raises:
      MirageError: a child failed.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            said = Path(folder, f"{kind}.json")
            environment = os.environ | {
                "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "jax")),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                "CUDA_CACHE_PATH": str(Path(folder, "cuda")),
                # This process holds memory of the same device.
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            }
            line = [sys.executable, *CHILD, *arguments, f"--out={said}"]
            begin = time.monotonic()
            try:
                subprocess.run(
                    line,
                    env=environment,
                    cwd=Path(__file__).parent.parent,
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=LONGEST_S,
                )
            except subprocess.TimeoutExpired as error:
                raise MirageError(
                    f"the {kind} start took more than {LONGEST_S} s: leave start out "
                    "of --parts"
                ) from error
            except subprocess.CalledProcessError as error:
                last = (error.stderr.strip().splitlines() or ["it says nothing"])[-1]
                raise MirageError(f"the {kind} start failed: {last}") from error
            one = json.loads(said.read_text(encoding="utf-8"))
            found[kind] = one | {"total": one["clock"] - begin}
    return found


def start_results(row: str, starts: dict[str, dict[str, Any]]) -> list[Result]:
    """`start_s/cold` and `start_s/warm`, their parts, and memory of the second start.

    The second start tries no kernels while it compiles: what it needs is the stream's.
    """
    found = []
    for kind, one in starts.items():
        found.append(Result(f"start_s/{kind}", one["total"], "s", "lower"))
        for part, seconds in one["seconds"].items():
            path = f"start_s/{kind}/{part.replace(' ', '_')}"
            found.append(Result(path, seconds, "s", "lower"))
    last = starts[KINDS[-1]]
    for name in ("live", "peak"):
        if last[name] is not None:
            path = f"memory_gib/{row}/{name}"
            found.append(Result(path, last[name] / 2**30, "GiB", "lower"))
    return found
