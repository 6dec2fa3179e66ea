"""When to start a frame, and which frames are no longer worth one."""

_WEIGHT = 0.1  # of the newest time in the smoothed one


class Governor:
    """Keeps latency bounded by skipping, never by queueing.

    Args:
      deadline: seconds that a source frame may wait for the device. On a device that
        takes longer than half of it for a frame, twice the frame's time counts, else
        nothing would ever be shown.
      gather: seconds that a waiting frame waits for those of the other clients, so
        that one step on the device serves them all.
    """

    def __init__(self, deadline: float, gather: float):
        self._deadline, self._gather = deadline, gather
        self.step_seconds = 0.0  # smoothed

    def measured(self, seconds: float) -> None:
        """Takes note of how long a step took."""
        if not self.step_seconds:
            self.step_seconds = seconds
        self.step_seconds += _WEIGHT * (seconds - self.step_seconds)

    def restart(self) -> None:
        """Forgets how long steps took: from now on they do something else."""
        self.step_seconds = 0.0

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
