"""GPUs that are not there: compiles for them with the CUDA plugin alone."""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from pallas_kernels.device import Device, pretend

FOLDER = Path(__file__).parent / "data" / "targets"
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
def _sharding(description: str) -> Any:
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

    `description` takes the place of the target's own.
    """
    sharding = _sharding(description or target.description)
    shaped = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), operands
    )
    with pretend(target.device):
        lowered = jax.jit(call, donate_argnums=donate).lower(*shaped)
    return lowered.compile()


def requested_shared_memory(target: Target, call: Any, *operands: Any) -> int:
    """Bytes a block asks for, from the refusal of a card that has almost none."""
    tiny = re.sub(r"(optin: )\d+", r"\g<1>1024", target.description)
    try:
        compile_for(target, call, *operands, description=tiny)
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"requested (\d+), available: 1024", str(error))
        if found is None:
            raise
        return int(found[1])
    return 1024
