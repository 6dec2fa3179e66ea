"""Finds the fastest configuration of each kernel on the present GPU.

    python -m experiments.autotune --cases=lsd_256,lsd_1024,lsd_256_lagged

For each shape: compiles the search space, the likeliest configurations first, side by
side until the time for it is over; drops what does not compile or is not the
float32 reference; times the rest, and the other backends of the dispatcher, the same
way as the benchmark. Writes `pallas_kernels/tuned/<device>.json`, which the dispatcher
reads: rows of other shapes stay. With --interpret it tries the configurations of a
small shape on any device, to test the script.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import app, flags
from jaxtyping import Array

from experiments.command import command
from experiments.frame_attention_rivals import (
    Operands,
    config_step,
    expected,
    make_sets,
    steps,
    tolerance,
)
from mirage_jax.errors import MirageError
from pallas_kernels import device, timing, tuned_table
from pallas_kernels._mosaic import HAS_MOSAIC, HOPPER
from pallas_kernels.frame_attention import config as triton_config
from pallas_kernels.frame_attention import mosaic_config
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.specs import BARS, DEFAULT_MODEL, SMALL, SPECS, Spec
from pallas_kernels.timing import Step

_CASES = flags.DEFINE_list("cases", [], "Names of shapes; all real ones by default.")
_SECONDS = flags.DEFINE_float("seconds", 12.0, "Time to compile in, a shape.")
_MOST = flags.DEFINE_integer("most", 160, "Most configurations tried, a shape.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Compiling threads; 0: one a CPU core.")
_CALLS = flags.DEFINE_integer("calls", 96, "Calls in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of a program; the median counts.")
_SETS = flags.DEFINE_integer("sets", 16, "Most sets of operands to go through.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the kernels as plain JAX.")
_OUT = flags.DEFINE_string(
    "out", None, "The table; pallas_kernels/tuned/<device>.json by default."
)
# What the dispatcher may choose from, beside the kernel.
_OTHERS = ("cudnn", "xla")
Candidate = tuple[str, Any]  # backend and configuration


@dataclasses.dataclass(frozen=True)
class Trial:
    """One measured step: its error against the reference, and its time."""

    name: str
    error: float
    microseconds: float


def autotune() -> None:
    """Tunes the chosen shapes one after the other, keeping each as it is found."""
    card = device.present()
    if card is None:
        if not _INTERPRET.value:
            raise MirageError("no NVIDIA GPU here; --interpret tests the script")
        card = device.Device("interpreter", (8, 6), 8)
    path = Path(_OUT.value) if _OUT.value else tuned_table.path_of(card)
    for name, spec in _chosen_specs().items():
        begin = time.perf_counter()
        row = _tune(name, spec, card)
        tuned_table.write(path, card, OP.name, [row])
        print(f"{name}: {time.perf_counter() - begin:.0f} s; table {path}", flush=True)


def _chosen_specs() -> dict[str, Spec]:
    real = {"plain": SMALL["plain"]} if _INTERPRET.value else BARS | DEFAULT_MODEL
    unknown = [name for name in _CASES.value if name not in SPECS]
    if unknown:
        raise MirageError(f"no case {unknown[0]!r}: choose of {', '.join(SPECS)}")
    return {name: SPECS[name] for name in _CASES.value} or real


def _tune(name: str, spec: Spec, card: device.Device) -> dict[str, Any]:
    """The row of the table for one shape."""
    q, sets = make_sets(spec, stacked=False, most=_SETS.value)
    wanted = expected(spec, q, sets[0], biased=True)
    space = _candidates(spec, card)
    chains = _compile_all(spec, space, q, sets)
    trials = {
        candidate: _try(str(candidate), chain, q, sets, wanted)
        for candidate, chain in chains.items()
    }
    right = {
        candidate: trial
        for candidate, trial in trials.items()
        if trial.error <= tolerance(spec)
    }
    for candidate in trials.keys() - right.keys():
        print(f"  WRONG, left out: {trials[candidate]}")
    if not right:
        raise MirageError(f"{name}: no configuration compiles and is right")
    print(f"{name}: {len(chains)} of {len(space)} configurations compiled in time")
    configs, microseconds = {}, {}
    for backend in dict(OP.configs):
        mine = [candidate for candidate in right if candidate[0] == backend]
        ranked = sorted(mine, key=lambda candidate: right[candidate].microseconds)
        for candidate in ranked[:5]:
            print(f"  {right[candidate].microseconds:9.2f} us  {candidate[1]}")
        # Small differences among the first are noise: time them again, longer.
        final = {
            candidate: chains[candidate].time(q, sets, 4 * _REPEATS.value).microseconds
            for candidate in ranked[:5]
        }
        if final:
            best = min(final, key=lambda candidate: final[candidate])
            configs[backend] = dataclasses.asdict(best[1])
            microseconds[backend] = final[best]
            print(f"  best {best[1]}")
    for other, trial in _others(spec, q, sets, wanted).items():
        microseconds[other] = trial.microseconds
    print("  " + ", ".join(f"{k} {v:.2f} us" for k, v in microseconds.items()))
    return {
        "problem": dataclasses.asdict(spec.problem),
        "configs": configs,
        "microseconds": {k: round(v, 3) for k, v in microseconds.items()},
    }


def _candidates(spec: Spec, card: device.Device) -> list[Candidate]:
    """What to try, the likeliest of each backend first and in turn."""
    spaces: dict[str, Any] = {"triton": triton_config.search_space(spec.problem, card)}
    hopper = HAS_MOSAIC and card.capability == HOPPER
    if hopper and mosaic_config.unsuited(spec.problem) is None:
        spaces["mosaic"] = mosaic_config.search_space(spec.problem, card)
    most = _MOST.value // len(spaces)
    turns = itertools.zip_longest(
        *([(name, c) for c in space[:most]] for name, space in spaces.items())
    )
    return [candidate for turn in turns for candidate in turn if candidate is not None]


def _compile_all(
    spec: Spec, space: Sequence[Candidate], q: Array, sets: Sequence[Operands]
) -> dict[Candidate, timing.Chain]:
    """Compiles in threads, in order, until the time is over."""
    deadline = time.perf_counter() + _SECONDS.value
    refused: dict[str, int] = {}

    def compile_one(candidate: Candidate) -> timing.Chain | None:
        if time.perf_counter() > deadline:
            return None
        step = config_step(spec, *candidate, _INTERPRET.value)
        try:
            return timing.compile_chain(step, q, sets, _CALLS.value)
        except Exception as error:  # one that does not compile is no candidate
            reason = str(error).splitlines()[0][:100]
            refused[reason] = refused.get(reason, 0) + 1
            return None

    workers = _WORKERS.value or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        compiled = dict(zip(space, pool.map(compile_one, space), strict=True))
    for reason, count in refused.items():
        print(f"  {count} refused: {reason}")
    return {which: chain for which, chain in compiled.items() if chain is not None}


def _try(
    name: str, chain: timing.Chain, q: Array, sets: Sequence[Operands], wanted: Array
) -> Trial:
    timed = chain.time(q, sets, _REPEATS.value)
    error = timing.relative_error(timed.first, wanted)
    return Trial(name, error, timed.microseconds)


def _others(
    spec: Spec, q: Array, sets: Sequence[Operands], wanted: Array
) -> dict[str, Trial]:
    """The dispatcher's other backends, where they run and are right."""
    found = {}
    for name in _OTHERS:
        step: Step = steps(spec, _INTERPRET.value)[name]
        try:
            chain = timing.compile_chain(step, q, sets, _CALLS.value)
            trial = _try(name, chain, q, sets, wanted)
        except Exception as error:  # it is then no choice on this device
            print(f"  without {name}: {str(error).splitlines()[0][:100]}")
            continue
        if trial.error <= tolerance(spec):
            found[name] = trial
        else:
            print(f"  WRONG, left out: {trial}")
    return found


main = command("autotune", autotune)

if __name__ == "__main__":
    app.run(main)
