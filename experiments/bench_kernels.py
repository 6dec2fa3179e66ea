"""Checks and times the kernels on the present GPU, rivals in the same run.

    python -m experiments.bench_kernels --cases=lsd_256,norm_256,mlp_256

Correctness first: every output is compared with the definition in float32. Then the
time of a call inside one compiled program (see `pallas_kernels.timing`), over sets of
operands that keep the L2 cache cold, beside what cuDNN and XLA make of the same work,
and the share of the floor: the larger of bytes over measured copy bandwidth and
operations over the measured rate of matrix products. Writes one JSON file after each
case, prints a table and which bars were met, exits with 1 where one of our kernels is
wrong or does not run. With --interpret it runs tiny shapes on any device, to test the
script itself.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import app, flags

from experiments.command import command
from experiments.kernel_bars import BARS, judge
from experiments.kernel_case import OURS, Case, Rival
from experiments.kernel_cases import cases
from experiments.kernel_report import Row, table, to_results
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from pallas_kernels import device, timing

_CASES = flags.DEFINE_list("cases", [], "Names of cases; those of the bars by default.")
_RIVALS = flags.DEFINE_list("rivals", [], "Names of rivals; all by default.")
_CALLS = flags.DEFINE_integer("calls", 192, "Calls in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Runs of a program; the median counts.")
_SETS = flags.DEFINE_integer("sets", 16, "Most sets of keys to go through.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Compiling threads; 0: one a CPU core.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the kernels as plain JAX.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/kernels_<device>.json by default."
)


def bench() -> None:
    """Runs what the flags ask for; raises MirageError where a kernel is wrong."""
    card = device.present()
    small = card is None
    if small and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret runs small shapes without")
    chosen = _chosen(small)
    bandwidth = timing.copy_bandwidth(4 if small else 1024)
    rate = timing.matmul_rate(128 if small else 8192)
    print(f"copy {bandwidth / 1e9:.0f} GB/s, matrix products {rate / 1e12:.1f} TFLOP/s")
    slug = "interpreter" if card is None else card.slug
    out = _OUT.value or f"docs/results/kernels_{slug}.json"
    setup: dict[str, Any] = device_setup() | {
        "copy_bytes_per_s": bandwidth,
        "matmul_flops_per_s": rate,
        "calls": _CALLS.value,
        "repeats": _REPEATS.value,
        "interpret": _INTERPRET.value,
        "cases": {},
    }
    results: list[Result] = []
    times, wrong = {}, []
    for name, make in chosen.items():
        case = make()
        floor = 1e6 * max(case.bytes_moved / bandwidth, case.flops / rate)
        rows = _measure(case)
        print(table(case.op, name, rows, floor), flush=True)
        setup["cases"][name] = dict(case.record)
        results += to_results(case.op, name, rows, floor)
        wrong += [f"{name}/{row.rival}" for row in rows if not row.correct]
        for row in rows:
            if row.refusal is None:
                times[f"{case.op}/{name}/{row.rival}"] = row.microseconds
        # A run that is cut off keeps what it has.
        judged, bars = judge(BARS, times)
        write_results(out, "experiments/bench_kernels.py", setup, results + bars)
    if judged:
        print(f"bars\n{judged}")
    print(f"results in {out}")
    if wrong:
        raise MirageError(f"wrong: {', '.join(wrong)}")


def _chosen(small: bool) -> dict[str, Callable[[], Case]]:
    """Cases by name, made when asked for."""
    known = cases(small, _SETS.value)
    bars = list(dict.fromkeys(bar.case for bar in BARS))
    names = _CASES.value or (list(known)[:1] if small else bars)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MirageError(f"no case {unknown[0]!r}: choose of {', '.join(known)}")
    return {name: known[name] for name in names}


def _measure(case: Case) -> list[Row]:
    """Compiles all rivals side by side; then checks and times one after the other."""
    rivals = {
        name: rival
        for name, rival in case.rivals.items()
        if not _RIVALS.value or name in _RIVALS.value
    }
    with ThreadPoolExecutor(_WORKERS.value or os.cpu_count() or 1) as pool:
        compiling = {
            name: pool.submit(
                timing.compile_chain, rival.step, case.carry, rival.sets, _CALLS.value
            )
            for name, rival in rivals.items()
        }
    return [
        _time(case, name, rival, compiling[name].result)
        for name, rival in rivals.items()
    ]


def _time(
    case: Case, name: str, rival: Rival, compiled: Callable[[], timing.Chain]
) -> Row:
    """Checks the first call, then times. A rival may be unable, our kernels not."""
    try:
        timed = compiled().time(case.carry, rival.sets, _REPEATS.value)
    except Exception as failure:  # any library may fail in any way; the others go on
        first = (str(failure).splitlines() or [""])[0]
        refusal = f"{type(failure).__name__}: {first[:120]}"
        unable = isinstance(failure, NotImplementedError)
        ours = name.startswith(OURS) and not unable
        return Row(name, rival.complete, refusal=refusal, correct=not ours)
    error = timing.relative_error(timed.first, rival.wanted)
    return Row(
        name,
        rival.complete,
        error,
        timed.microseconds,
        timed.spread,
        correct=error <= case.tolerance,
    )


main = command("bench_kernels", bench)

if __name__ == "__main__":
    app.run(main)
