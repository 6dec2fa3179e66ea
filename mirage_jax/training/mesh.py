"""Which devices train together, and which part of every array lies on which of them.

Devices form a mesh of two axes, "data" and "fsdp". Every device draws a batch of its
own; weights, their average and the optimiser's state are split over "fsdp" and copied
over "data" (fully sharded data parallelism, Rajbhandari et al. 2020). Neighbours along
"fsdp" are neighbours in the list of devices: on one host, if the axis fits on one.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax.errors import MirageError

AXES = ("data", "fsdp")
SMALL = 2**14
"""Arrays of fewer elements are copied: gathering them takes longer than it saves."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one of the two may be -1, all devices that are left."""

    data: int = -1
    fsdp: int = 1


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of all devices of all hosts, or of `devices`.

    Raises:
      MirageError: the axes do not take all of the devices.
    """
    config = config or MeshConfig()
    devices = list(devices if devices is not None else jax.devices())
    sides = [config.data, config.fsdp]
    if sides.count(-1) == 1:
        sides[sides.index(-1)] = len(devices) // max(1, -math.prod(sides))
    if min(sides) < 1 or math.prod(sides) != len(devices):
        raise MirageError(
            f"mesh of data={config.data} x fsdp={config.fsdp} does not take "
            f"{len(devices)} device(s): their product must be that number, and -1 in "
            "one of them stands for what is left"
        )
    return Mesh(np.array(devices).reshape(sides), AXES)


def split_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The largest axis that `parts` divides, the last of equals; None to copy."""
    if parts == 1 or math.prod(shape) < SMALL:
        return None
    fits = [axis for axis, length in enumerate(shape) if length % parts == 0]
    return max(fits, key=lambda axis: (shape[axis], axis), default=None)


def split_spec(leaf: Any, mesh: Mesh) -> PartitionSpec:
    """How an array of the training state lies on the mesh."""
    axis = split_axis(leaf.shape, mesh.shape["fsdp"])
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "fsdp")


def split(tree: Any, mesh: Mesh) -> Any:
    """The shardings of a tree of arrays or shapes, by `split_spec`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, split_spec(leaf, mesh)), tree)


def copied(tree: Any, mesh: Mesh) -> Any:
    """The shardings of a tree that every device holds whole."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every host has whole, each to where its sharding says."""

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = one(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        if sharding.is_fully_replicated:
            return jax.make_array_from_callback(leaf.shape, sharding, lambda _: leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda at: leaf[at])

    return jax.tree.map(one, tree, shardings)


def whole(leaf: jax.Array) -> jax.Array:
    """This host's copy of an array that may be split, on its first device.

    All hosts must call it together. An array that is copied anyway is not moved.
    """
    if not leaf.is_fully_replicated:
        assert isinstance(leaf.sharding, NamedSharding)
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        leaf = jax.jit(_identity, out_shardings=everywhere)(leaf)
    return leaf.addressable_data(0)


def _identity(leaf: jax.Array) -> jax.Array:
    return leaf
