"""How fast a stream may be on a chip where nobody measured it: a projection.

Work that memory bounds and work that the matrix units bound reach different shares of
their floors, and so do denoiser and codec. Each share is taken from where it was
measured and applied to the floor of the other chip, stage by stage. Time that belongs
to no stage is the host's, which launches the program: it is carried over as it is.
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from mirage_jax.chips import Chip
from mirage_jax.cost_model import Stage, floor_seconds

Bound = Literal["memory", "compute"]
CODEC = ("encode", "decode")


def bound_of(stages: Iterable[Stage], chip: Chip) -> Bound:
    """What takes most of the floor of these stages."""
    seconds = {"memory": 0.0, "compute": 0.0}
    for stage in stages:
        slower = stage.memory_seconds(chip) >= stage.compute_seconds(chip)
        seconds["memory" if slower else "compute"] += stage.seconds(chip)
    return "memory" if seconds["memory"] >= seconds["compute"] else "compute"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some stages that were measured together.

    Attributes:
      name: of the measurement.
      stages: all of the codec or all of the denoiser.
      milliseconds: that they took.
    """

    name: str
    stages: tuple[Stage, ...]
    milliseconds: float

    def share(self, chip: Chip) -> float:
        """Of the floor's speed that was reached, 1 at the floor."""
        return 1e3 * floor_seconds(self.stages, chip) / self.milliseconds


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of a model on a chip.

    Attributes:
      chip: where.
      source: file and combination, for reports.
      pieces: the first ones are of the stream that is asked for, others of other sizes.
      launch_ms: of a frame's call, beyond all its stages; None where nobody knows.
    """

    chip: Chip
    source: str
    pieces: tuple[Piece, ...]
    launch_ms: float | None = None

    def share(self, codec: bool, bound: Bound | None = None) -> float | None:
        """Of the floor's speed that all pieces of one class reached together.

        Args:
          codec: pieces of the codec, else those of the denoiser.
          bound: only those that this bounds; None takes all.

        Returns:
          None where no piece is of that class.
        """
        chosen = [
            piece
            for piece in self.pieces
            if (piece.stages[0].name in CODEC) == codec
            and bound in (None, bound_of(piece.stages, self.chip))
        ]
        if not chosen:
            return None
        floor = sum(1e3 * floor_seconds(piece.stages, self.chip) for piece in chosen)
        return floor / sum(piece.milliseconds for piece in chosen)


def projected_ms(
    stages: Iterable[Stage], measured: Measurement, chip: Chip
) -> float | None:
    """Milliseconds of stages on a chip: each one's floor over its class's share.

    A class that was not measured takes the share of all pieces of its half, codec or
    denoiser.

    Returns:
      None where nothing of that half was measured.

    Raises:
      MirageError: the chip lacks a precision of theirs.
    """
    total = 0.0
    for stage in stages:
        codec = stage.name in CODEC
        share = measured.share(codec, bound_of([stage], chip)) or measured.share(codec)
        if share is None:
            return None
        total += 1e3 * stage.seconds(chip) / share
    return total
