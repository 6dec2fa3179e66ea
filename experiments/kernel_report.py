"""What the kernels' benchmarks record and print."""

import dataclasses
from collections.abc import Sequence

from mirage_jax.results import Result


@dataclasses.dataclass(frozen=True)
class Row:
    """One rival at one shape; without a time where it cannot do the job.

    `complete` says that it does the whole job, and is not only a mark.
    """

    rival: str
    complete: bool
    error: float = float("nan")
    microseconds: float = float("nan")
    spread: float = float("nan")
    refusal: str | None = None
    correct: bool = True


def to_results(op: str, name: str, rows: Sequence[Row], floor: float) -> list[Result]:
    """Floor, time, spread, error and share of the floor of one shape, by rival."""
    found = [Result(f"us/{op}/{name}/floor", floor, "us", "lower")]
    for row in rows:
        if row.refusal is None:
            path = f"{op}/{name}/{row.rival}"
            found.append(Result(f"us/{path}", row.microseconds, "us", "lower"))
            found.append(Result(f"us_spread/{path}", row.spread, "us", "lower"))
            found.append(Result(f"error/{path}", row.error, "", "lower"))
            share = 100 * floor / row.microseconds
            found.append(Result(f"percent_of_floor/{path}", share, "%", "higher"))
    return found


def table(op: str, name: str, rows: Sequence[Row], floor: float) -> str:
    """A line a rival: error, time, spread, share of the floor, ratio to the first."""
    ours = rows[0].rival
    times = {row.rival: row.microseconds for row in rows if row.refusal is None}
    time = times.get(ours, float("nan"))
    lines = [f"{op} {name}: floor {floor:.1f} us"]
    for row in rows:
        if row.refusal is not None:
            lines.append(f"  {row.rival:20} {row.refusal}")
            continue
        lines.append(
            f"  {row.rival:20} error {row.error:.1e}{'' if row.correct else ' WRONG'}"
            f"  {row.microseconds:9.2f} us +-{row.spread:.2f}"
            f"  {100 * floor / row.microseconds:5.1f} % of floor"
            f"  {ours} takes {time / row.microseconds:.2f}x"
            f"{'' if row.complete else '  (not the whole job)'}"
        )
    return "\n".join(lines)
