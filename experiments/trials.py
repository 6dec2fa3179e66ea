"""Compiled candidates of one case: checked, timed, and the best of each backend."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from experiments.chain_builder import first_line
from pallas_kernels import timing
from pallas_kernels.choice import Op
from pallas_kernels.timing import Chain, Sets

FINALISTS = 5  # of a backend: small differences among the first are noise
LONGER = 4  # times as many repeats for them


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A backend with one of its configurations; None where it has none."""

    backend: str
    config: Any = None

    @property
    def label(self) -> str:
        """As a path: the numbers of the configuration in their order."""
        if self.config is None:
            return self.backend
        numbers = dataclasses.astuple(self.config)
        return f"{self.backend}/{'_'.join(map(str, numbers))}"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a candidate gave: its error against the definition, and its time."""

    error: float
    microseconds: float


def run_all(
    chains: Mapping[Candidate, Chain],
    carry: Any,
    sets: Sets,
    wanted: Any,
    repeats: int,
) -> dict[Candidate, Trial | str]:
    """Runs one after the other; the line that says why where one does not run."""
    found: dict[Candidate, Trial | str] = {}
    for candidate, chain in chains.items():
        try:
            timed = chain.time(carry, sets, repeats)
        except jax.errors.JaxRuntimeError as failure:
            # What compiles may still not start: a cluster that no card can place.
            found[candidate] = first_line(failure)
            continue
        error = timing.relative_error(timed.first, wanted)
        found[candidate] = Trial(error, timed.microseconds)
    return found


def best_of_each(
    chains: Mapping[Candidate, Chain],
    trials: Mapping[Candidate, Trial],
    carry: Any,
    sets: Sets,
    repeats: int,
) -> dict[Candidate, float]:
    """Microseconds of the fastest candidate of each backend, fastest first.

    Args:
      trials: of those to choose from.
    """
    best = {}
    for backend in dict.fromkeys(candidate.backend for candidate in trials):
        mine = [candidate for candidate in trials if candidate.backend == backend]
        mine.sort(key=lambda candidate: trials[candidate].microseconds)
        again = {
            candidate: chains[candidate].time(carry, sets, LONGER * repeats)
            for candidate in mine[:FINALISTS]
        }
        first = min(again, key=lambda candidate: again[candidate].microseconds)
        best[first] = again[first].microseconds
    return dict(sorted(best.items(), key=lambda one: one[1]))


def row(op: Op, problem: Any, best: Mapping[Candidate, float]) -> dict[str, Any]:
    """The row of the device's table that the dispatcher reads."""
    return {
        "problem": dataclasses.asdict(problem),
        "configs": {
            candidate.backend: dataclasses.asdict(candidate.config)
            for candidate in best
            if candidate.backend in dict(op.configs)
        },
        "microseconds": {
            candidate.backend: round(microseconds, 3)
            for candidate, microseconds in best.items()
        },
    }
