"""Ways to run a stream, by name: commit/steps, after "free/" if its source is gone."""

import dataclasses

from mirage_jax.errors import MirageError
from mirage_jax.flow import STEP_COUNTS
from mirage_jax.stream_config import COMMITS

FREE = "free"


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way to run a stream: "lagged/2", or "free/lagged/2" once its source is gone.

    Attributes:
      commit: what the frame cache keeps.
      steps: denoiser passes a frame.
      free: whether the source stops coming.
    """

    commit: str
    steps: int
    free: bool = False

    @property
    def name(self) -> str:
        return f"{FREE}/" * self.free + f"{self.commit}/{self.steps}"


def parse_mode(text: str) -> Mode:
    """The mode of a name.

    Raises:
      MirageError: there is no such mode.
    """
    *free, commit, steps = ["", "", *text.split("/")][-3:]
    known = free[0] in ("", FREE) and commit in COMMITS
    if not known or steps not in map(str, STEP_COUNTS) or text.count("/") > 2:
        raise MirageError(
            f"mode {text!r}: write commit/steps, as merged/1 or lagged/2 (commits "
            f"{', '.join(COMMITS)}; steps {', '.join(map(str, STEP_COUNTS))}), or "
            f"{FREE}/lagged/1"
        )
    return Mode(commit, int(steps), bool(free[0]))
