"""How often something may happen."""

import time
from collections.abc import Callable


class RateLimit:
    """A bucket of tokens: `rate` a second on average, `burst` at once."""

    def __init__(
        self,
        rate: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._since = burst, clock()

    def allow(self) -> bool:
        """Takes a token; False if there is none."""
        now = self._clock()
        earned = (now - self._since) * self._rate
        self._tokens, self._since = min(self._burst, self._tokens + earned), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
