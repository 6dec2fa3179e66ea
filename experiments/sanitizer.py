"""NVIDIA's compute-sanitizer around a command: how many errors it counts.

JAX hands out pieces of one large pool by default, and the tool knows nothing of pieces:
a kernel that reads beyond its operand reads the pool, which is no error. So
`OWN_ALLOCATIONS` must be in the environment before JAX meets the GPU.
"""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence

from mirage_jax.errors import MirageError

PROGRAM = "compute-sanitizer"
# Every buffer becomes an allocation of its own.
OWN_ALLOCATIONS = {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}
# What each tool is told besides. A gap behind every allocation, where the next one
# might begin. No report of calls to the driver that fail: JAX asks for functions that
# an older one does not have, and what matters it reports itself.
TOOLS = {
    "memcheck": ("--padding", "4096", "--report-api-errors", "no"),
    "racecheck": (),
    "initcheck": (),
}
_ERRORS_FOUND = 9  # exit status; our scripts exit with 0, 1 or 2
# "ERROR SUMMARY: 3 errors", "RACECHECK SUMMARY: 1 hazard displayed (1 error, ..": the
# first such line, for a second one may say how many of them were not printed.
_SUMMARY = re.compile(r"SUMMARY: .*?(\d+) errors?\b")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a command under a tool.

    Attributes:
      errors: counted by the tool; None where it came to no end or said nothing.
      failure: why nothing is proved, beside errors: over time, or the command's own.
      report: what both printed.
    """

    errors: int | None
    failure: str | None
    report: str


def find_program() -> str:
    """Path of compute-sanitizer.

    Raises:
      MirageError: it is not installed.
    """
    path = shutil.which(PROGRAM)
    if path is None:
        raise MirageError(
            f"no {PROGRAM} on PATH: it is in the bin/ folder of the CUDA toolkit"
        )
    return path


def run_under(tool: str, command: Sequence[str], seconds: float) -> Finding:
    """Runs a command under one of `TOOLS`, for `seconds` at most.

    Raises:
      MirageError: compute-sanitizer is not installed.
    """
    line = [
        *(find_program(), "--tool", tool, "--error-exitcode", str(_ERRORS_FOUND)),
        *("--target-processes", "application-only", *TOOLS[tool], *command),
    ]
    with subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | OWN_ALLOCATIONS,
        start_new_session=True,
    ) as process:
        try:
            report, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # The tool's child too, or it would keep the GPU.
            os.killpg(process.pid, signal.SIGKILL)
            report, _ = process.communicate()
            return Finding(None, f"no end in {seconds:g} s", report)
    return _judge(report, process.returncode)


def _judge(report: str, status: int) -> Finding:
    found = _SUMMARY.search(report)
    if found is None:
        return Finding(None, f"no summary of the tool, exit status {status}", report)
    errors = int(found[1])
    own_failure = status != 0 and not (errors and status == _ERRORS_FOUND)
    return Finding(errors, f"exit status {status}" if own_failure else None, report)
