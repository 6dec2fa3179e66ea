"""When to start a frame, with how many steps, and which frames are too late for one."""

_WEIGHT = 0.1  # of the newest time in the smoothed one
_PATIENCE = 3  # slow steps on the device, one after the other, until fewer are taken
_RECOVERY = 60.0  # seconds until more are tried again


class Governor:
    """Keeps latency bounded by fewer steps, then by skipping, never by queueing.

    Args:
      deadline: seconds that a source frame may wait for the device, and that one of
        more than one step may take there. On a device that takes longer than half of
        it for a frame, twice the frame's time counts for the wait, else nothing would
        ever be shown.
      gather: seconds that a waiting frame waits for those of the other clients, so
        that one step on the device serves them all.
    """

    def __init__(self, deadline: float, gather: float):
        self._deadline, self._gather = deadline, gather
        self.step_seconds = 0.0  # smoothed
        self._steps = 0  # denoiser passes that it is the time of
        self._slow = 0
        self._most, self._until = 0, 0.0  # steps at most, until then

    def measured(self, seconds: float, steps: int, now: float) -> None:
        """Takes note of how long a frame of so many steps took."""
        if steps != self._steps:
            self.step_seconds, self._steps, self._slow = seconds, steps, 0
        self.step_seconds += _WEIGHT * (seconds - self.step_seconds)
        self._slow = self._slow + 1 if seconds > self._deadline else 0
        if self._slow >= _PATIENCE and steps > 1:
            self._most, self._until = steps // 2, now + _RECOVERY

    def affordable(self, steps: int, now: float) -> int:
        """So many steps, or as many as the device was quick enough for of late."""
        return min(steps, self._most) if now < self._until else steps

    def too_late(self, waited: float) -> bool:
        """Whether a frame that has waited so long is skipped."""
        return waited > max(self._deadline, 2 * self.step_seconds)

    def delay(self, waiting: int, clients: int, longest: float) -> float:
        """Seconds until a step should start.

        Args:
          waiting: clients whose frame waits, at least 1.
          clients: all of them.
          longest: how long the first of the frames has waited.
        """
        if waiting >= clients:
            return 0.0
        return max(0.0, self._gather - longest)
