"""Memory that XLA plans for compiled programs."""

import dataclasses
from typing import Any

from mirage_jax.results import Result


@dataclasses.dataclass(frozen=True)
class Memory:
    """What XLA plans for a frame, bytes of the card's memory.

    Attributes:
      arguments: weights, state and source.
      temporaries: beside them while it runs.
      outputs: state and styled frame, where they do not take the place of arguments.
    """

    arguments: int
    temporaries: int
    outputs: int

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.outputs

    def to_results(self, name: str) -> list[Result]:
        """By chip or by program, in GiB."""
        parts = dataclasses.asdict(self) | {"total": self.total}
        return [
            Result(f"memory_gib/{name}/{part}", size / 2**30, "GiB", "lower")
            for part, size in parts.items()
        ]


def planned_memory(*programs: Any) -> Memory:
    """Of what `jax.stages.Lowered.compile` returns; of several, one after another.

    What two of them read counts twice: in a frame latents and source, about 1 MB at
    512x512.
    """
    plans = [program.memory_analysis() for program in programs]
    return Memory(
        sum(plan.argument_size_in_bytes for plan in plans),
        max(plan.temp_size_in_bytes for plan in plans),
        sum(plan.output_size_in_bytes - plan.alias_size_in_bytes for plan in plans),
    )
