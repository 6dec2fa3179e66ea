"""Commits by the names that configs give them."""

from mirage_jax.errors import MirageError
from mirage_jax.stream_config import COMMITS

# "auto" is the best one that a device has time for.
COMMIT_CHOICES = ("auto", *COMMITS)


def commit_of(name: str, platform: str = "gpu") -> str:
    """What `StreamConfig.commit` is, by the name in a config.

    Args:
      name: one of `COMMIT_CHOICES`. Streams of the lagged commit lose least and keep
        what they chose (docs/drift.md), and so "auto" is that. It takes a second frame
        through a frame's first pass, for which a GPU has room and a CPU has not: there
        it is the merged one.
      platform: JAX's name of it.

    Raises:
      MirageError: there is no such commit.
    """
    if name not in COMMIT_CHOICES:
        raise MirageError(f"commit={name!r}: choose one of {', '.join(COMMIT_CHOICES)}")
    if name == "auto":
        return "merged" if platform == "cpu" else "lagged"
    return name
