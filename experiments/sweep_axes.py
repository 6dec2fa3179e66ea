"""What a sweep varies: flags with lists or ranges of values, combined or drawn.

    --config.learning_rate=1e-4,3e-4      a list
    --config.sizes=(256,),(512,256)       commas within brackets separate nothing
    --config.draws=1..8                   a range of whole numbers, both ends included
    --config.mix.shared=0.1..0.3          a range of numbers
    --config.weight_decay=log:1e-4..1e-1  the same, evenly spread over its logarithm

A range can only be drawn from; a list can also be gone through.
"""

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Sequence

from mirage_jax.errors import MirageError

Settings = tuple[tuple[str, str], ...]
"""What distinguishes a run from others of its sweep: (flag, value), ..."""

_COMMA = re.compile(r",(?![^(\[]*[)\]])")
_RANGE = re.compile(r"(log:)?([^.].*?)\.\.([^.].*)")


@dataclasses.dataclass(frozen=True)
class Values:
    """A list of values, all equally likely."""

    listed: tuple[str, ...]

    def draw(self, rng: random.Random) -> str:
        return rng.choice(self.listed)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, evenly spread over themselves or their logarithm.

    Attributes:
      whole: draw integers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, rng: random.Random) -> str:
        if self.whole and not self.log:
            return str(rng.randint(int(self.low), int(self.high)))
        if not self.log:
            return f"{rng.uniform(self.low, self.high):.6g}"
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return str(round(value)) if self.whole else f"{value:.6g}"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A flag of the script, with its dashes, and what it may be."""

    flag: str
    values: Values | Range


def parse_axis(text: str) -> Axis:
    """`--flag=VALUES`, see the top of this file.

    Raises:
      MirageError: no flag, no value, a value given twice, or a bad range.
    """
    flag, equals, values = text.partition("=")
    if not re.fullmatch(r"--[\w.]+", flag) or not equals or not values:
        raise MirageError(
            f"--grid={text}: give a flag and its values, as in --grid=--steps=1,2,4"
        )
    listed = tuple(value.strip() for value in _COMMA.split(values))
    if len(listed) == 1 and _is_range(listed[0]):
        return Axis(flag, _parse_range(listed[0], text))
    if any(_is_range(value) for value in listed):
        raise MirageError(f"--grid={text}: give one range or a list, not both")
    if len(set(listed)) < len(listed) or "" in listed:
        raise MirageError(f"--grid={text}: a value is empty or stands there twice")
    return Axis(flag, Values(listed))


def _is_range(value: str) -> bool:
    """Dots in a path are none: `../data`."""
    return value.startswith("log:") or (".." in value and "/" not in value)


def _parse_range(value: str, text: str) -> Range:
    cure = "write LOW..HIGH or log:LOW..HIGH, as in log:1e-5..1e-3"
    match = _RANGE.fullmatch(value)
    try:
        low, high = (float(end) for end in match.groups()[1:]) if match else (0, 0)
    except ValueError as error:
        raise MirageError(f"--grid={text} is no range: {cure}") from error
    if match is None or not -math.inf < low < high < math.inf:
        raise MirageError(f"--grid={text} is no range: {cure}")
    log = match[1] is not None
    if log and low <= 0:
        raise MirageError(f"--grid={text}: a logarithmic range begins above zero")
    whole = all(re.fullmatch(r"-?\d+", end) for end in match.groups()[1:])
    return Range(low, high, log, whole)


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """All of a sweep.

    Raises:
      MirageError: as `parse_axis`; no axis, or a flag on two of them.
    """
    axes = [parse_axis(text) for text in texts]
    if not axes:
        raise MirageError("nothing to sweep: give a flag and values by --grid")
    flags = [axis.flag for axis in axes]
    if len(set(flags)) < len(flags):
        twice = next(flag for flag in flags if flags.count(flag) > 1)
        raise MirageError(f"{twice} is given by --grid twice: put its values together")
    return axes


def grid(axes: Sequence[Axis]) -> list[Settings]:
    """Every combination; the last axis changes fastest.

    Raises:
      MirageError: an axis is a range.
    """
    lists = []
    for axis in axes:
        if isinstance(axis.values, Range):
            raise MirageError(
                f"{axis.flag} has a range, from which values are drawn: say how many "
                "runs by --random, or list its values"
            )
        lists.append([(axis.flag, value) for value in axis.values.listed])
    return list(itertools.product(*lists))


def draws(axes: Sequence[Axis], count: int, seed: int) -> list[Settings]:
    """Random settings: `count` of them less what was drawn twice.

    Random search as of Bergstra and Bengio (2012). A draw depends on the seed and on
    its number alone, so that a larger count adds runs and keeps those that were there.
    """
    drawn = []
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        drawn.append(tuple((axis.flag, axis.values.draw(rng)) for axis in axes))
    return list(dict.fromkeys(drawn))
