"""A straight line through a series, with an interval that a slow wander cannot fool."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Slope:
    """Change per unit of time by least squares, and the ends of its interval."""

    value: float
    low: float
    high: float


def least_squares(
    times: Float[np.ndarray, " n"], values: Float[np.ndarray, "*lead n"]
) -> Float[np.ndarray, "*lead"]:
    """Slope of the best line through each series."""
    centred = times - times.mean()
    slopes: np.ndarray = values @ centred / (centred @ centred)
    return slopes


def slope_with_interval(
    times: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], seed: int = 0
) -> Slope:
    """The slope of a series and its 95 % interval by the block bootstrap.

    What the line leaves over is drawn anew in blocks of neighbours, round the end to
    the beginning, and put back onto the line (Politis & Romano 1992). Neighbours are
    alike: a stream that wanders slowly would look sure of its slope if they were drawn
    one by one. A block has n^(1/3) members, rounded up.

    Raises:
      ValueError: fewer than three members.
    """
    n = len(values)
    if n < 3:
        raise ValueError(f"a slope with an interval needs three values, not {n}")
    slope = float(least_squares(times, values))
    line = values.mean() + slope * (times - times.mean())
    rest = values - line
    length = int(np.ceil(n ** (1 / 3)))
    rng = np.random.default_rng(seed)
    blocks = -(-n // length)
    starts = rng.integers(0, n, (RESAMPLES, blocks, 1))
    places = (starts + np.arange(length)).reshape(RESAMPLES, -1)[:, :n] % n
    # A line with two free numbers leaves less over than there was.
    slopes = least_squares(times, line + rest[places] * (n / (n - 2)) ** 0.5)
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(slopes, [outside, 100 - outside])
    return Slope(slope, float(low), float(high))
