"""Runs each kernel under NVIDIA's compute-sanitizer on the present GPU.

    python -m experiments.check_memory --tool=memcheck

Every case of `experiments.bench_kernels` runs once with our kernels alone, in a process
of its own under the tool, which reports accesses outside of what a kernel was given
(memcheck), to what nobody wrote (initcheck), or races in shared memory (racecheck).
Writes one JSON file; exits with 1 where an error was found or a case did not finish.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from experiments.command import command
from experiments.kernel_bars import BARS
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from pallas_kernels import device

_TOOL = flags.DEFINE_enum(
    "tool", "memcheck", ["memcheck", "initcheck", "racecheck"], "What is looked for."
)
_CASES = flags.DEFINE_list(
    "cases", [], "Cases of the benchmark; those of the bars by default."
)
_RIVALS = flags.DEFINE_list(
    "rivals",
    [
        *("triton", "triton_layer", "mosaic", "mosaic_layer", "mosaic_bfloat16"),
        *("triton_int8", "triton_float8_e4m3fn"),
        *("mosaic_int8", "mosaic_float8_e4m3fn"),
    ],
    "Our kernels, as the benchmark calls them.",
)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Time for a case.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/<tool>_<device>.json by default."
)

SANITIZER = "compute-sanitizer"
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")


def check_memory() -> bool:
    """Runs what the flags ask for; whether a case had errors or did not finish."""
    program = shutil.which(SANITIZER)
    if program is None:
        raise MirageError(f"no {SANITIZER} here: it comes with the CUDA toolkit")
    cases = _CASES.value or list(dict.fromkeys(bar.case for bar in BARS))
    results, unfinished = [], []
    for case in cases:
        errors = _errors(program, case)
        print(f"{case}: {'did not finish' if errors is None else f'{errors} errors'}")
        if errors is None:
            unfinished.append(case)
        else:
            results.append(Result(f"errors/{case}", errors, "", "lower"))
    card = device.present()
    slug = "cpu" if card is None else card.slug
    out = _OUT.value or f"docs/results/{_TOOL.value}_{slug}.json"
    setup = device_setup() | {
        "tool": _TOOL.value,
        "kernels": _RIVALS.value,
        "unfinished": unfinished,
    }
    write_results(out, "experiments/check_memory.py", setup, results)
    print(f"results in {out}")
    return bool(unfinished) or any(result.value for result in results)


def _errors(program: str, case: str) -> int | None:
    """Errors that the tool found in one case; None where it did not come to an end."""
    with tempfile.TemporaryDirectory() as folder:
        benchmark = [
            *(sys.executable, "-m", "experiments.bench_kernels", f"--cases={case}"),
            *(f"--rivals={','.join(_RIVALS.value)}", "--calls=1", "--repeats=1"),
            *("--sets=1", f"--out={Path(folder) / 'kernels.json'}"),
        ]
        line = [program, "--tool", _TOOL.value, *benchmark]
        try:
            done = subprocess.run(
                line, capture_output=True, text=True, timeout=_SECONDS.value
            )
        except subprocess.TimeoutExpired:
            return None
    found = SUMMARY.search(done.stdout + done.stderr)
    if found is None or (done.returncode and found.group(1) == "0"):
        print((done.stdout + done.stderr)[-600:])
        return None
    return int(found.group(1))


main = command("check_memory", check_memory)

if __name__ == "__main__":
    app.run(main)
