"""What a record of speed says about the machine beside JAX's own names."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

_ASKED = "driver_version,power.limit,clocks.max.sm,clocks.max.mem,persistence_mode"


def host_setup() -> dict[str, Any]:
    """Processor and its cores, driver and limits of the GPU, and switches of XLA.

    What cannot be found out is None.
    """
    return {
        "processor": _processor(),
        "processor_cores": os.cpu_count(),
        "gpu": _gpu(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "compilation_cache": "JAX_COMPILATION_CACHE_DIR" in os.environ,
    }


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return next((name.strip() for name in names), None)


def _gpu() -> dict[str, str] | None:
    """The first one's, as nvidia-smi states it."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    line = [program, f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    try:
        run = subprocess.run(
            line, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    first = (run.stdout.splitlines() or [""])[0].split(",")
    return dict(zip(_ASKED.split(","), (word.strip() for word in first), strict=False))
