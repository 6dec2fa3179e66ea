"""Several processes, on one host or many, that train as one.

Each runs the same command and the same steps. They must take every decision alike,
because a step needs all of them: clocks and signals, which differ, are put together on
the devices, behind the step at hand, so that no host waits for another.
"""

import dataclasses
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax.errors import MirageError
from mirage_jax.training.mesh import AXES


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """The processes of a training; the defaults leave it to the environment.

    Attributes:
      coordinator: "address:port" of the first process, which all others can reach.
      processes: how many there are in all.
      process: number of this one, from 0.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1


def join(config: HostsConfig) -> None:
    """Joins the other processes; must come before anything is computed.

    Without a coordinator it does so where Slurm started several tasks (`srun`), and
    else leaves this process alone.

    Raises:
      MirageError: the settings do not fit together, or the others cannot be reached.
    """
    try:
        if config.coordinator:
            if not 0 <= config.process < config.processes:
                raise MirageError(
                    f"process={config.process} of processes={config.processes}: "
                    "numbers run from 0 to one below the number of processes"
                )
            jax.distributed.initialize(
                config.coordinator, config.processes, config.process
            )
        elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise MirageError(
            f"cannot join the other processes ({str(error).splitlines()[0]}): all must "
            "be started at about the same time and reach the first one's address"
        ) from error


def leads() -> bool:
    """Whether this process is the one that writes what all have made."""
    return jax.process_index() == 0


class Agreement:
    """The highest of the numbers that the processes of a mesh tell."""

    def __init__(self, mesh: Mesh) -> None:
        self.needed = jax.process_count() > 1
        self._each = NamedSharding(mesh, PartitionSpec(AXES))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._devices = mesh.size
        self._highest = jax.jit(lambda told: told.max(0), out_shardings=everywhere)

    def tell(self, numbers: Sequence[float]) -> jax.Array:
        """Tells this process's numbers; all processes must call it together.

        The result is the same everywhere, and ready when the devices come to it.
        """
        mine = np.array([numbers], np.float32)
        shape = (self._devices, len(numbers))
        told = jax.make_array_from_callback(shape, self._each, lambda _: mine)
        return self._highest(told)


def from_first(array: np.ndarray) -> np.ndarray:
    """The first process's array, in all of them; shape and dtype must be alike."""
    if jax.process_count() == 1:
        return array
    # As bytes: JAX would make 32 bits of 64.
    words = np.frombuffer(array.tobytes(), np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(words))
    return np.frombuffer(sent.tobytes(), array.dtype).reshape(array.shape)
