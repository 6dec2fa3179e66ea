"""Finds the fastest backend and configuration of each kernel on the present GPU.

    python -m experiments.autotune --ops='linear*' --cases='*_256*'

For each case: builds the configurations of our kernels side by side, the likeliest
first, until the time for it is over, and the other backends of the dispatcher; leaves
out, and reports, what does not compile or is not the float32 definition; times the
rest, the fastest again and longer. Each case's row goes at once into
`pallas_kernels/tuned/<device>.json`, which the dispatcher reads: rows of other cases
stay. By default the cases are all that streams of the 880M model and of the default
model call. Exits with 1 where a kernel is wrong. With --interpret it tries tiny shapes
on any device, to test the script.
"""

import collections
import dataclasses
import fnmatch
import os
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from absl import app, flags

from experiments.chain_builder import ChainBuilder
from experiments.command import command
from experiments.kernel_case import DEFINITION, OURS, Contest
from experiments.kernel_cases import contests, frame_loop
from experiments.search_spaces import search_space
from experiments.trials import Candidate, Trial, best_of_each, row, run_all
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from pallas_kernels import device, tuned_table
from pallas_kernels.timing import Chain

_CASES = flags.DEFINE_list("cases", [], "Names or globs; the frame loop's by default.")
_OPS = flags.DEFINE_list("ops", ["*"], "Names or globs of operations.")
_SECONDS = flags.DEFINE_float("seconds", 30.0, "Time to build kernels in, a case.")
_MOST = flags.DEFINE_integer(
    "most", 48, "Most configurations where there are hundreds."
)
_WORKERS = flags.DEFINE_integer("workers", 0, "Lowering processes; 0: one a CPU core.")
_CALLS = flags.DEFINE_integer("calls", 96, "Calls in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of a program; the median counts.")
_SETS = flags.DEFINE_integer("sets", 16, "Most sets of keys to go through.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the kernels as plain JAX.")
_OUT = flags.DEFINE_string(
    "out", None, "The table; pallas_kernels/tuned/<device>.json by default."
)
_OUT_TIMES = flags.DEFINE_string("out_times", None, "Results: times of all candidates.")


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was found at one case: all that ran, and the best that is right."""

    trials: Mapping[Candidate, Trial]
    wrong: frozenset[Candidate]
    best: Mapping[Candidate, float]


def autotune() -> None:
    """Tunes the chosen cases one after the other, keeping each as it is found."""
    present = device.present()
    if present is None and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret tests the script")
    card = present or device.INTERPRETER
    path = Path(_OUT.value) if _OUT.value else tuned_table.path_of(card)
    chosen = _chosen()
    results: list[Result] = []
    wrong: list[str] = []
    with ChainBuilder(present, _WORKERS.value or os.cpu_count() or 1) as builder:
        for name, contest in chosen.items():
            begin = time.perf_counter()
            tuned = _tune(name, contest, card, builder)
            found = row(contest.op, contest.problem, tuned.best)
            tuned_table.write(path, card, contest.op.name, [found])
            seconds = time.perf_counter() - begin
            print(f"{name}: {seconds:.0f} s; table {path}", flush=True)
            results += _results(f"{contest.op.name}/{name}", tuned)
            wrong += [f"{name}/{candidate.label}" for candidate in tuned.wrong]
            if _OUT_TIMES.value is not None:
                _write_times(_OUT_TIMES.value, chosen, results)
    if wrong:
        raise MirageError(f"wrong, left out: {', '.join(sorted(wrong))}")


def _chosen() -> dict[str, Contest]:
    """By name, in the order of the frame loop."""
    known = contests(_INTERPRET.value, _SETS.value)
    names = list(frame_loop(_INTERPRET.value))
    if _CASES.value:
        names = list(dict.fromkeys([*names, *known]))
        for pattern in _CASES.value:
            if not fnmatch.filter(names, pattern):
                raise MirageError(f"no case {pattern!r}: choose of {', '.join(names)}")
        names = [name for name in names if _matches(name, _CASES.value)]
    ops = {name: known[name].op.name for name in names}
    for pattern in _OPS.value:
        if not fnmatch.filter(ops.values(), pattern):
            raise MirageError(
                f"no operation {pattern!r} among the cases: choose of "
                f"{', '.join(dict.fromkeys(ops.values()))}"
            )
    return {n: known[n] for n in names if _matches(ops[n], _OPS.value)}


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _tune(
    name: str, contest: Contest, card: device.Device, builder: ChainBuilder
) -> Tuned:
    """Builds, checks and times one case, and says what it finds."""
    carry, sets = contest.draw()
    wanted = jax.jit(contest.step(DEFINITION, None))(carry, sets[0])
    candidates = [
        Candidate(backend, config)
        for backend in contest.backends
        for config in search_space(
            contest.op, contest.problem, card, backend, _MOST.value
        )
    ]
    steps = {
        c: (contest.step(c.backend, c.config), c.backend in OURS) for c in candidates
    }
    built = builder.build(steps, carry, sets, _CALLS.value, _SECONDS.value)
    chains = {c: chain for c, chain in built.items() if isinstance(chain, Chain)}
    print(f"{name}: {len(chains)} of {len(candidates)} candidates built in time")
    ran = run_all(chains, carry, sets, wanted, _REPEATS.value)
    trials = {c: trial for c, trial in ran.items() if isinstance(trial, Trial)}
    refusals = [
        f"{c.backend}: {why}"
        for c, why in (built | ran).items()
        if isinstance(why, str)
    ]
    for refusal, count in collections.Counter(refusals).items():
        print(f"  {count} refused: {refusal}")
    wrong = frozenset(c for c in trials if not trials[c].error <= contest.tolerance)
    for candidate in wrong:
        print(f"  WRONG, left out: {candidate.label} {trials[candidate]}")
    right = {c: trial for c, trial in trials.items() if c not in wrong}
    if not right:
        raise MirageError(f"{name}: nothing compiles and is right")
    best = best_of_each(chains, right, carry, sets, _REPEATS.value)
    for candidate, microseconds in best.items():
        print(
            f"  {microseconds:9.2f} us  {candidate.backend}  {candidate.config or ''}"
        )
    return Tuned(trials, wrong, best)


def _results(path: str, tuned: Tuned) -> list[Result]:
    """Every time, by the numbers of the configuration, and the best again."""
    found = [
        Result(f"us/{path}/{candidate.label}", trial.microseconds, "us", "lower")
        for candidate, trial in tuned.trials.items()
        if candidate not in tuned.wrong
    ]
    return found + [
        Result(f"us_best/{path}/{candidate.label}", microseconds, "us", "lower")
        for candidate, microseconds in tuned.best.items()
    ]


def _write_times(
    out: str, chosen: Mapping[str, Contest], results: list[Result]
) -> None:
    configs = {
        f"{contest.op.name}/{backend}": [f.name for f in dataclasses.fields(config)]
        for contest in chosen.values()
        for backend, config in contest.op.configs
    }
    setup = device_setup() | {
        "calls": _CALLS.value,
        "repeats": _REPEATS.value,
        "interpret": _INTERPRET.value,
        "configs": configs,
        "problems": {n: dataclasses.asdict(c.problem) for n, c in chosen.items()},
    }
    write_results(out, "experiments/autotune.py", setup, results)


main = command("autotune", autotune)

if __name__ == "__main__":
    app.run(main)
