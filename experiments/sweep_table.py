"""The outcome of a sweep: a table for people, results for everything else."""

from collections.abc import Sequence

from experiments.sweep_metrics import SECONDS, Measured, Metric
from mirage_jax.results import Result


def ranked(found: Sequence[Measured], metric: Metric) -> list[Measured]:
    """Best first by the metric; runs without it behind, in their order."""

    def place(one: Measured) -> tuple[bool, float]:
        result = one.results.get(metric.name)
        if result is None:
            return True, 0.0
        return False, -result.value if result.better == "higher" else result.value

    return sorted(found, key=place)


def to_results(found: Sequence[Measured]) -> list[Result]:
    """Named `<metric>/<run>`."""
    return [
        Result(f"{name}/{one.run.name}", result.value, result.unit, result.better)
        for one in found
        for name, result in one.results.items()
    ]


def markdown(found: Sequence[Measured], metrics: Sequence[Metric]) -> str:
    """Settings, numbers and outcome of every run, in the order given."""
    flags = [flag for flag, _ in found[0].run.settings]
    names = [metric.name for metric in metrics if metric.name != SECONDS]
    head = [flag.lstrip("-") for flag in flags]
    head += [_heading(name, found) for name in [*names, SECONDS]]
    rows = [
        [
            *(value for _, value in one.run.settings),
            *(_number(one.results.get(name)) for name in names),
            f"{one.outcome.seconds:.1f}",
            one.outcome.word,
            f"`{one.run.name}`",
        ]
        for one in found
    ]
    numbers = len(names) + 1
    rules = ["---"] * len(flags) + ["---:"] * numbers + ["---"] * 2
    lines = [[*head, "outcome", "run"], rules, *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in lines
    )


def _heading(name: str, found: Sequence[Measured]) -> str:
    units = [one.results[name].unit for one in found if name in one.results]
    return f"{name}, {units[0]}" if units and units[0] else name


def _number(result: Result | None) -> str:
    return "" if result is None else f"{result.value:.5g}"
