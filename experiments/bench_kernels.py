"""Checks and times the kernels on the present GPU, rivals in the same run.

    python -m experiments.bench_kernels --specs=lsd_256,lsd_1024,lsd_256_lagged

Correctness first: every output is compared with the float32 reference. Then the time
of a call inside one compiled program (see `pallas_kernels.timing`), over sets of
operands that keep the L2 cache cold, and the share of the floor: the larger of bytes
over measured copy bandwidth and operations over the measured rate of matrix products.
Writes one JSON file, prints a table, exits with 1 where an error is too large.
With --interpret it runs small shapes on any device, to test the script itself.
"""

import dataclasses
from typing import Any

from absl import app, flags

from experiments.command import command
from experiments.frame_attention_rivals import (
    Rival,
    expected,
    make_sets,
    rivals,
    tolerance,
)
from experiments.kernel_report import Row, table, to_results
from mirage_jax.errors import MirageError
from mirage_jax.results import device_setup, write_results
from pallas_kernels import choice, device, timing
from pallas_kernels.frame_attention import mosaic_config
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.config import default_config
from pallas_kernels.frame_attention.specs import BARS, SMALL, SPECS, Spec

_SPECS = flags.DEFINE_list("specs", [], "Names of shapes; the bars by default.")
_RIVALS = flags.DEFINE_list("rivals", [], "Names of rivals; all by default.")
_CALLS = flags.DEFINE_integer("calls", 192, "Calls in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of a program; the median counts.")
_SETS = flags.DEFINE_integer("sets", 16, "Most sets of operands to go through.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the kernels as plain JAX.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/kernels_<device>.json by default."
)


def bench() -> None:
    """Runs what the flags ask for; raises MirageError where an output is wrong."""
    specs = _chosen_specs()
    card = device.present()
    if card is None and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret runs small shapes without")
    small = card is None
    bandwidth = timing.copy_bandwidth(4 if small else 1024)
    rate = timing.matmul_rate(128 if small else 8192)
    print(f"copy {bandwidth / 1e9:.0f} GB/s, matrix products {rate / 1e12:.1f} TFLOP/s")
    results, wrong, configs = [], [], {}
    for name, spec in specs.items():
        configs[name] = _configs(spec, card)
        floor = 1e6 * max(spec.bytes_moved / bandwidth, spec.flops / rate)
        rows = [
            _measure(spec, rival_name, rival)
            for rival_name, rival in rivals(spec, _INTERPRET.value).items()
            if not _RIVALS.value or rival_name in _RIVALS.value
        ]
        print(table(OP.name, name, rows, floor))
        results += to_results(OP.name, name, rows, floor)
        wrong += [f"{name}/{row.rival}" for row in rows if not row.correct]
    setup = device_setup() | {
        "copy_bytes_per_s": bandwidth,
        "matmul_flops_per_s": rate,
        "calls": _CALLS.value,
        "repeats": _REPEATS.value,
        "interpret": _INTERPRET.value,
        "shapes": {name: dataclasses.asdict(spec) for name, spec in specs.items()},
        "configs": configs,
    }
    slug = "interpreter" if card is None else card.slug
    out = _OUT.value or f"docs/results/kernels_{slug}.json"
    write_results(out, "experiments/bench_kernels.py", setup, results)
    print(f"results in {out}")
    if wrong:
        raise MirageError(f"wrong: {', '.join(wrong)}")


def _chosen_specs() -> dict[str, Spec]:
    names = _SPECS.value or (list(SMALL)[:1] if _INTERPRET.value else list(BARS))
    unknown = [name for name in names if name not in SPECS]
    if unknown:
        raise MirageError(f"no shape {unknown[0]!r}: choose of {', '.join(SPECS)}")
    layered = [name for name in names if SPECS[name].problem.layers]
    if layered:
        raise MirageError(f"{layered[0]!r} has layers of its own: a test's shape")
    return {name: SPECS[name] for name in names}


def _configs(spec: Spec, card: device.Device | None) -> dict[str, Any]:
    """What our kernels take, measured or not, so that the record can say it."""
    card = card or device.Device("interpreter", (8, 6), 8)
    defaults: dict[str, Any] = {
        "triton": default_config(spec.problem, card),
        "mosaic": None
        if mosaic_config.unsuited(spec.problem)
        else mosaic_config.default_config(spec.problem, card),
    }
    found = {}
    for backend, default in defaults.items():
        config = choice.tuned_config(OP, spec.problem, card, backend) or default
        if config is not None:
            found[backend] = dataclasses.asdict(config)
    return found


def _measure(spec: Spec, name: str, rival: Rival) -> Row:
    """Checks the first call, then times. A rival may be unable, our kernels not."""
    q, sets = make_sets(spec, rival.stacked, _SETS.value)
    try:
        chain = timing.compile_chain(rival.step, q, sets, _CALLS.value)
        timed = chain.time(q, sets, _REPEATS.value)
    except Exception as failure:  # any library may fail in any way; the others go on
        refusal = f"{type(failure).__name__}: {str(failure).splitlines()[0][:120]}"
        unable = isinstance(failure, NotImplementedError)
        ours = name.startswith(("triton", "mosaic")) and not unable
        return Row(name, rival.biased, refusal=refusal, correct=not ours)
    wanted = expected(spec, q, sets[0], rival.biased)
    error = timing.relative_error(timed.first, wanted)
    return Row(
        name,
        rival.biased,
        error,
        timed.microseconds,
        timed.spread,
        correct=error <= tolerance(spec),
    )


main = command("bench_kernels", bench)

if __name__ == "__main__":
    app.run(main)
