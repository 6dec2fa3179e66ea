"""Memory that XLA plans for a compiled program."""

import dataclasses
from typing import Any

from mirage_jax.results import Result


@dataclasses.dataclass(frozen=True)
class Memory:
    """What XLA plans for a program, bytes of the card's memory.

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


def planned_memory(compiled: Any) -> Memory:
    """Of what `jax.stages.Lowered.compile` returns."""
    plan = compiled.memory_analysis()
    return Memory(
        plan.argument_size_in_bytes,
        plan.temp_size_in_bytes,
        plan.output_size_in_bytes - plan.alias_size_in_bytes,
    )
