"""Checks and times norms, commit and 8-bit layers on the present GPU.

    python -m experiments.bench_row_kernels --cases=norm_256,commit_256,mlp_256

As `experiments.bench_kernels` does for frame attention: correctness first, against the
definition in float32, then the time of a call inside one compiled program, beside what
XLA makes of the same work, and the share of the floor. Writes one JSON file, prints a
table, exits with 1 where one of our kernels is wrong or does not run. With --interpret
it runs tiny shapes on any device, to test the script itself.
"""

import jax
from absl import app, flags

from experiments.command import command
from experiments.kernel_report import Row, table, to_results
from experiments.row_kernel_rivals import Case, cases
from mirage_jax.errors import MirageError
from mirage_jax.results import device_setup, write_results
from pallas_kernels import device, timing
from pallas_kernels.timing import Step

_CASES = flags.DEFINE_list("cases", [], "Names of cases; all by default.")
_CALLS = flags.DEFINE_integer("calls", 192, "Calls in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of a program; the median counts.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the kernels as plain JAX.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/row_kernels_<device>.json by default."
)


def bench() -> None:
    """Runs what the flags ask for; raises MirageError where a kernel is wrong."""
    card = device.present()
    if card is None and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret runs small shapes without")
    known = cases(card is None)
    names = _CASES.value or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MirageError(f"no case {unknown[0]!r}: choose of {', '.join(known)}")
    bandwidth = timing.copy_bandwidth(4 if card is None else 1024)
    rate = timing.matmul_rate(128 if card is None else 8192)
    print(f"copy {bandwidth / 1e9:.0f} GB/s, matrix products {rate / 1e12:.1f} TFLOP/s")
    results, wrong = [], []
    for name in names:
        case = known[name]()
        floor = 1e6 * max(case.bytes_moved / bandwidth, case.flops / rate)
        wanted = jax.jit(case.exact)(case.carry, case.sets[0])
        rows = [_measure(case, *rival, wanted) for rival in case.rivals.items()]
        print(table(case.op, name, rows, floor, ours=next(iter(case.rivals))))
        results += to_results(case.op, name, rows, floor)
        wrong += [f"{name}/{row.rival}" for row in rows if not row.correct]
    setup = device_setup() | {
        "copy_bytes_per_s": bandwidth,
        "matmul_flops_per_s": rate,
        "calls": _CALLS.value,
        "repeats": _REPEATS.value,
        "interpret": card is None,
    }
    slug = "interpreter" if card is None else card.slug
    out = _OUT.value or f"docs/results/row_kernels_{slug}.json"
    write_results(out, "experiments/bench_row_kernels.py", setup, results)
    print(f"results in {out}")
    if wrong:
        raise MirageError(f"wrong: {', '.join(wrong)}")


def _measure(case: Case, name: str, step: Step, wanted: object) -> Row:
    """Checks the first call, then times. A rival may be unable, our kernels not."""
    try:
        chain = timing.compile_chain(step, case.carry, case.sets, _CALLS.value)
        timed = chain.time(case.carry, case.sets, _REPEATS.value)
    except Exception as failure:  # any library may fail in any way; the others go on
        refusal = f"{type(failure).__name__}: {str(failure).splitlines()[0][:120]}"
        unable = isinstance(failure, NotImplementedError)
        ours = name.startswith(("triton", "mosaic")) and not unable
        return Row(name, True, refusal=refusal, correct=not ours)
    error = timing.relative_error(timed.first, wanted)
    return Row(
        name,
        True,
        error,
        timed.microseconds,
        timed.spread,
        correct=error <= case.tolerance,
    )


main = command("bench_row_kernels", bench)

if __name__ == "__main__":
    app.run(main)
