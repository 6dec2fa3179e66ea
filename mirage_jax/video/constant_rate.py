"""Even times from uneven ones.

The model counts time in frames: the age of a cache slot is a number of frames, and
its styles were learned at even spacing. So a source of variable frame rate is
resampled here, and the output always has a constant rate. Repeating frames across
gaps (also those that damaged frames leave) keeps picture and sound together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

from mirage_jax.video.reader import Frame

LONGEST_GAP = 60.0  # seconds; a longer one is a broken clock, not a still picture


def constant_rate(frames: Iterable[Frame], rate: Fraction) -> Iterator[Frame]:
    """Resamples by time: tick k shows the last frame due by (k + 1/2) / rate.

    The half tick makes this the identity on an even source of the same rate, jitter
    included. Frames that fall between two ticks are dropped; the last frame is shown
    once.

    Args:
      frames: times need not start at 0. A step back, or a gap of more than
        LONGEST_GAP, restarts the clock one tick after the previous frame.
      rate: ticks a second.

    Yields:
      Frames with times k / rate, k = 0, 1, 2, ...
    """
    tick = 0
    offset: float | None = None
    held: Frame | None = None
    last_time = 0.0
    for frame in frames:
        if offset is None:
            offset = frame.time
        elif frame.time < last_time or frame.time > last_time + LONGEST_GAP:
            offset += frame.time - last_time - float(1 / rate)
        last_time = frame.time
        if held is not None:
            # A frame is due from the tick nearest to its time on; a tie goes to the
            # later tick, whatever the rounding, so that 60 to 30 is every second one.
            due = math.floor((frame.time - offset) * rate + 0.5 + 1e-6)
            while tick < due:
                yield Frame(held.image, float(tick / rate))
                tick += 1
        held = frame
    if held is not None:
        yield Frame(held.image, float(tick / rate))
