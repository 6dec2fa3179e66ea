"""What the roofline prints and records: floors, shares of them, projections."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mirage_jax.chips import Chip
from mirage_jax.cost_model import Stage
from mirage_jax.frame_cost import Part
from mirage_jax.projection import Measurement, bound_of, projected_ms
from mirage_jax.results import Result


@dataclasses.dataclass(frozen=True)
class Roofline:
    """A frame on a chip.

    Attributes:
      name: of the chip in result names, "rtx3090".
      chip: its ceilings.
      parts: of the frame.
    """

    name: str
    chip: Chip
    parts: tuple[Part, ...]

    def rows(self) -> Iterator[tuple[str, int, tuple[Stage, ...]]]:
        """(path, times a frame, stages) of every part, and below it of its stages."""
        for part in self.parts:
            yield part.name, part.times, part.stages
            if len(part.stages) > 1:
                for stage in part.stages:
                    if stage.seconds(self.chip) > 0:
                        yield f"{part.name}/{stage.name}", part.times, (stage,)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All that a frame runs, as often as it does."""
        return tuple(s for part in self.parts for s in part.stages * part.times)

    def bounds(self) -> Mapping[str, str]:
        """What takes most of each row's floor, "memory" or "compute"."""
        found = {path: bound_of(stages, self.chip) for path, _, stages in self.rows()}
        return found | {"frame": bound_of(self.stages, self.chip)}


def _row(
    path: str, times: int, stages: tuple[Stage, ...], chip: Chip
) -> tuple[str, float, float, float, str]:
    flops = sum(stage.flops for stage in stages)
    moved = sum(stage.bytes_moved(chip) for stage in stages)
    floor = 1e3 * sum(stage.seconds(chip) for stage in stages)
    name = "  " * path.count("/") + path.rsplit("/", 1)[-1]
    if times > 1 and "/" not in path:
        name += f" (of {times})"
    return name, flops, moved, floor, bound_of(stages, chip)


def floor_table(roofline: Roofline) -> str:
    """One line a part and stage; those of a part that runs often are of one run."""
    chip = roofline.chip
    lines = [f"{'':20}{'GFLOP':>10}{'MB':>10}{'floor ms':>10}  bound by"]
    rows = [*roofline.rows(), ("frame", 1, roofline.stages)]
    for path, times, stages in rows:
        name, flops, moved, floor, bound = _row(path, times, stages, chip)
        lines.append(
            f"{name:20}{flops / 1e9:10.2f}{moved / 1e6:10.2f}{floor:10.3f}  {bound}"
        )
    return "\n".join(lines)


def measured_table(measured: Measurement) -> str:
    """Each piece, its floor and the share of the floor's speed that it reached."""
    lines = [f"measured on {measured.chip.name} ({measured.source})"]
    for piece in measured.pieces:
        share = piece.share(measured.chip)
        bound = bound_of(piece.stages, measured.chip)
        lines.append(
            f"{piece.name:20}{piece.milliseconds:10.3f} ms, floor "
            f"{share * piece.milliseconds:.3f} ms: {100 * share:.0f} % of the floor's "
            f"speed, bound by {bound}"
        )
    if measured.launch_ms is not None:
        lines.append(f"{'launch':20}{measured.launch_ms:10.3f} ms")
    return "\n".join(lines)


def projections(roofline: Roofline, measured: Measurement) -> dict[str, float]:
    """Milliseconds by part, of one run each, of the launch and of the frame.

    A part of a half that was not measured is left out, and the frame with it.
    """
    found: dict[str, float] = {}
    frame: float | None = 0.0
    for part in roofline.parts:
        one = projected_ms(part.stages, measured, roofline.chip)
        if one is not None:
            found[part.name] = one
        frame = None if frame is None or one is None else frame + part.times * one
    if measured.launch_ms is not None:
        found["launch"] = measured.launch_ms
    if frame is not None:
        found["frame"] = frame + (measured.launch_ms or 0.0)
    return found


def projection_table(roofline: Roofline, projected: Mapping[str, float]) -> str:
    """Never to be read as a measurement, and it says so."""
    lines = [f"projection for {roofline.chip.name}, not measured there"]
    lines += [f"{name:20}{value:10.3f} ms" for name, value in projected.items()]
    return "\n".join(lines)


def to_results(roofline: Roofline) -> list[Result]:
    """Work, bytes and floors of one run of each part, and of the frame."""
    found = []
    rows = [*roofline.rows(), ("frame", 1, roofline.stages)]
    for path, times, stages in rows:
        _, flops, moved, floor, _ = _row(path, times, stages, roofline.chip)
        here = f"{roofline.name}/{path}"
        found += [
            Result(f"flops/{path}", flops, "FLOP", "lower"),
            Result(f"bytes/{here}", moved, "B", "lower"),
            Result(f"floor_ms/{here}", floor, "ms", "lower"),
        ]
    return found


def measured_results(name: str, measured: Measurement) -> list[Result]:
    """Times and shares of the floor's speed, by piece, of the measured chip."""
    found = []
    for piece in measured.pieces:
        path, share = f"{name}/{piece.name}", piece.share(measured.chip)
        found += [
            Result(f"measured_ms/{path}", piece.milliseconds, "ms", "lower"),
            Result(f"share_of_floor/{path}", share, "", "higher"),
        ]
    if measured.launch_ms is not None:
        path = f"measured_ms/{name}/launch"
        found.append(Result(path, measured.launch_ms, "ms", "lower"))
    return found


def projected_results(name: str, projected: Mapping[str, float]) -> list[Result]:
    """Projected milliseconds, under a name that says that they are."""
    return [
        Result(f"projection_ms/{name}/{part}", value, "ms", "lower")
        for part, value in projected.items()
    ]


def chip_setup(chip: Chip) -> dict[str, Any]:
    """The ceilings that the floors stand on, with their sources."""
    return dataclasses.asdict(chip) | {"rates": dict(chip.rates)}
