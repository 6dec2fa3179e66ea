"""GPUs that are not there: compiles for them with the CUDA plugin alone.

What a block asks for of shared memory is checked as on the card: a kernel that does not
fit does not compile.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from pallas_kernels.device import Device, pretended

FOLDER = Path(__file__).parent / "descriptions"
PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


@dataclasses.dataclass(frozen=True)
class Target:
    """A device, and the file that describes it to the compiler."""

    file: str
    device: Device

    @property
    def description(self) -> str:
        return (FOLDER / self.file).read_text()


RTX_3090 = Target("rtx3090.txtpb", Device("NVIDIA GeForce RTX 3090", (8, 6), 82))
A100 = Target("a100.txtpb", Device("NVIDIA A100-SXM4-80GB", (8, 0), 108))
H100 = Target("h100.txtpb", Device("NVIDIA H100 80GB HBM3", (9, 0), 132))
TARGETS = (RTX_3090, A100, H100)


def plugin_missing() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    for name in PLUGINS:
        try:
            if importlib.util.find_spec(name) is not None:
                return None
        except ModuleNotFoundError:
            continue
    return "compiling for a GPU needs JAX's CUDA plugin (and no GPU)"


@functools.cache
def _sharding(description: str) -> Any:  # no CPU: asks JAX's CUDA plugin
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=description, topology="1x1x1"
    )
    mesh = topologies.make_mesh(topology, (1,), ("x",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def compile_for(
    target: Target,
    call: Callable[..., Any],
    *operands: Any,
    donate: tuple[int, ...] = (),
    description: str | None = None,
) -> Any:
    """The compiled program for operands given as trees of shapes.

    While it is traced, kernels take the target for the present device.

    Args:
      target: what to compile for.
      call: of the operands.
      operands: trees of anything with a shape and a dtype.
      donate: numbers of the operands that are given up.
      description: takes the place of the target's own.

    Raises:
      jax.errors.JaxRuntimeError: it does not fit the target, in shared memory or else.
    """
    sharding = _sharding(description or target.description)
    shaped = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), operands
    )
    with pretended(target.device):
        lowered = jax.jit(call, donate_argnums=donate).lower(*shaped)
    return lowered.compile()
