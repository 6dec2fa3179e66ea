"""The GPU that kernels are shaped for."""

import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Iterator

import jax

from pallas_kernels._compat import lowering_for

# Bytes of shared memory that one block may ask for, by compute capability (NVIDIA,
# CUDA C++ Programming Guide, technical specifications per compute capability).
SHARED_MEMORY = {
    (8, 0): 166912,
    (8, 6): 101376,
    (8, 7): 166912,
    (8, 9): 101376,
    (9, 0): 232448,
    (10, 0): 232448,
    (10, 3): 232448,
    (12, 0): 101376,
    (12, 1): 101376,
}
LEAST_CAPABILITY = (8, 0)  # bfloat16 matrix units


@dataclasses.dataclass(frozen=True)
class Device:
    """What a configuration depends on.

    Attributes:
      kind: the name that JAX gives, "NVIDIA H100 80GB HBM3".
      capability: compute capability, (9, 0).
      cores: multiprocessors.
    """

    kind: str
    capability: tuple[int, int]
    cores: int

    @property
    def shared_memory(self) -> int:
        """Bytes a block may use; for an unknown card the least of all known ones."""
        return SHARED_MEMORY.get(self.capability, min(SHARED_MEMORY.values()))

    @property
    def slug(self) -> str:
        """The kind as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "_", self.kind.lower()).strip("_")


# Stands in where the interpreter runs a kernel: any configuration will do.
INTERPRETER = Device("interpreter", (8, 9), 8)
_PRETENDED: contextvars.ContextVar[Device | None] = contextvars.ContextVar(
    "pretended", default=None
)


@contextlib.contextmanager
def pretended(card: Device) -> Iterator[None]:
    """Programs are traced and lowered for a card that is not there.

    Raises:
      NotImplementedError: JAX cannot lower for its compute capability.
    """
    token = _PRETENDED.set(card)
    try:
        with lowering_for(card.capability, card.cores):
            yield
    finally:
        _PRETENDED.reset(token)


def present() -> Device | None:
    """The first local device where it is an NVIDIA GPU, else None; or the pretended."""
    if (card := _PRETENDED.get()) is not None:
        return card
    device = jax.local_devices()[0]
    capability = re.fullmatch(
        r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", ""))
    )
    if device.platform != "gpu" or capability is None:
        return None
    major, minor = (int(x) for x in capability.groups())
    cores = getattr(device, "core_count", None) or 1
    return Device(device.device_kind, (major, minor), int(cores))
