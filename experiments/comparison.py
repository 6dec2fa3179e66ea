"""What changed between two sets of records, and whether it is more than noise."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

from mirage_jax.errors import MirageError
from mirage_jax.results import Record, Result

CONFIDENCE = 0.95
# What must be the same in all records, else a difference says nothing about the code.
SETUP = ("device", "jax", "model", "precision")
_PERCENTILES = ("p50", "p95", "p99", "max")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Changes that count.

    Attributes:
      percent: smallest relative change of a number.
      quality_db: smallest change of a quality, dB.
    """

    percent: float
    quality_db: float


@dataclasses.dataclass(frozen=True)
class Change:
    """One number in both sets.

    Attributes:
      name: of the result.
      base, new: its value in either set, the median of repeats.
      unit: of the value.
      change: percent of the base, or dB of a quality; positive is better.
      change_unit: "%" or "dB".
      threshold: what the change has to surpass, in its unit.
      interval: of the median change over repeats; None without repeats.
    """

    name: str
    base: float
    new: float
    unit: str
    change: float
    change_unit: str
    threshold: float
    interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """One of "regressed", "improved" and "unchanged".

        Noise must be excluded by the interval; the gate of quality takes the median as
        it is, so that a loss cannot hide behind a wide interval.
        """
        low, high = self.interval or (self.change, self.change)
        sure = self.change_unit == "dB" or not low <= 0 <= high
        if abs(self.change) <= self.threshold or not sure:
            return "unchanged"
        return "improved" if self.change > 0 else "regressed"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Attributes:
      changes: of the names that all records have.
      missing: names that some base record has and some new one lacks.
      added: names that no base record has.
    """

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    def of(self, verdict: str) -> list[Change]:
        """Changes of one verdict, the largest first."""
        found = [change for change in self.changes if change.verdict == verdict]
        return sorted(found, key=lambda change: -abs(change.change))


def sign_test_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Confidence interval of the median that assumes nothing about the distribution.

    The k-th smallest and k-th largest value, where k is as large as `CONFIDENCE`
    allows: the values that the two-sided sign test does not reject as median (Conover,
    Practical Nonparametric Statistics, section 3.2). Fewer than six values reach 95 %
    by no k: then it is their range.

    Returns:
      Both ends, and the confidence that the interval really has.
    """
    ordered, count = sorted(values), len(values)
    outside = 2 * 0.5**count  # chance that the median is beyond the k-th on either side
    k = 1
    while k < (count + 1) // 2:
        wider = outside + 2 * math.comb(count, k) * 0.5**count
        if wider > 1 - CONFIDENCE:
            break
        outside, k = wider, k + 1
    return ordered[k - 1], ordered[-k], 1 - outside


def different_setups(records: Sequence[Record]) -> Iterator[str]:
    """What the records do not have in common, a phrase a key of `SETUP`."""
    for key in SETUP:
        values = list(dict.fromkeys(str(record.setup.get(key)) for record in records))
        if len(values) > 1:
            yield f"{key} is {' or '.join(values)}"


def compare_records(
    base: Sequence[Record],
    new: Sequence[Record],
    limits: Limits,
    prefixes: Sequence[str] = (),
) -> Comparison:
    """Compares repeats that are paired in order, or one record with one.

    Args:
      base, new: as many records on either side.
      limits: changes that count.
      prefixes: how compared names begin; none compares all.

    Raises:
      MirageError: nothing to compare, unequal repeats, or a name that means different
        things in two records.
    """
    if not base or len(base) != len(new):
        raise MirageError(
            f"{len(base)} base and {len(new)} new files: repeats are paired, give as "
            "many of each"
        )
    first = _names(base, prefixes)
    second = _names(new, prefixes)
    everywhere = [
        name for name in first if all(name in r.results for r in (*base, *new))
    ]
    missing = [name for name in first if any(name not in r.results for r in new)]
    if not everywhere and not missing:
        raise MirageError(f"no name to compare begins with {','.join(prefixes) or '*'}")
    changes = [_change(name, base, new, limits) for name in everywhere]
    added = [name for name in second if name not in first]
    return Comparison(tuple(changes), tuple(missing), tuple(added))


def _names(records: Sequence[Record], prefixes: Sequence[str]) -> list[str]:
    """Names in the order of the files; a spread is no result but the noise of one."""
    names = dict.fromkeys(name for record in records for name in record.results)
    return [
        name
        for name in names
        if not name.split("/")[0].endswith("_spread")
        and (not prefixes or name.startswith(tuple(prefixes)))
    ]


def _change(
    name: str, base: Sequence[Record], new: Sequence[Record], limits: Limits
) -> Change:
    befores = [record.results[name] for record in base]
    afters = [record.results[name] for record in new]
    meanings = {(result.unit, result.better) for result in (*befores, *afters)}
    if len(meanings) > 1:
        raise MirageError(
            f"{name} is not one thing: {' and '.join(map(str, sorted(meanings)))}; "
            "write the records again with one version of the script"
        )
    [(unit, better)] = meanings
    pairs = list(zip(befores, afters, strict=True))
    if _is_quality(befores[0]):
        gains = [_decibels(after) - _decibels(before) for before, after in pairs]
        middle, scale, kind = statistics.median(gains), 1.0, "dB"
        threshold = limits.quality_db
    else:
        gains = [_relative(before.value, after.value) for before, after in pairs]
        middle, scale, kind = _middle_of_ratios(gains), 100.0, "%"
        threshold = limits.percent
        if len(pairs) == 1:  # repeats show the noise, a single run can only state it
            spread = max(_spread(name, record) for record in (*base, *new))
            threshold = max(threshold, scale * spread)
    sign = scale if better == "higher" else -scale
    interval = None
    if len(pairs) > 1:
        low, high, _ = sign_test_interval([sign * gain for gain in gains])
        interval = low, high
    return Change(
        name=name,
        base=statistics.median(result.value for result in befores),
        new=statistics.median(result.value for result in afters),
        unit=unit,
        change=sign * middle,
        change_unit=kind,
        threshold=threshold,
        interval=interval,
    )


def _is_quality(result: Result) -> bool:
    """Whether it is judged in dB: those already are a logarithm, so no percent."""
    measured = result.unit != "passed"
    return result.unit.startswith("dB") or (
        measured and any(p.startswith(("psnr", "ssim")) for p in result.name.split("/"))
    )


def _decibels(result: Result) -> float:
    """Quality in dB; SSIM as -10 log10(1 - SSIM), at most 60."""
    if any(part.startswith("ssim") for part in result.name.split("/")):
        return -10 * math.log10(max(1 - result.value, 1e-6))
    return result.value


def _relative(before: float, after: float) -> float:
    """Change over the size of the base; from 0 to anything is a change of 1."""
    if before == 0:
        return math.copysign(1.0, after) if after else 0.0
    return (after - before) / abs(before)


def _middle_of_ratios(gains: Sequence[float]) -> float:
    """Median of the logarithms of ratios, as a relative change again.

    A doubling and a halving lie equally far from no change. Numbers that change sign
    have no such logarithm; there it is the plain median.
    """
    if min(gains) <= -1:
        return statistics.median(gains)
    return math.expm1(statistics.median(math.log1p(gain) for gain in gains))


def _spread(name: str, record: Record) -> float:
    """Noise that a record states for one of its numbers, over the number; else 0.

    A quartile range `us_spread/...` beside `us/...`, or for the percentiles of single
    calls how far p95 lies above p50.
    """
    results = record.results
    measure, _, path = name.partition("/")
    family, _, last = name.rpartition("/")
    spread = middle = 0.0
    if f"{measure}_spread/{path}" in results:
        spread = results[f"{measure}_spread/{path}"].value
        middle = results[name].value
    elif last in _PERCENTILES and {f"{family}/p50", f"{family}/p95"} <= results.keys():
        middle = results[f"{family}/p50"].value
        spread = results[f"{family}/p95"].value - middle
    return abs(spread / middle) if middle else 0.0
