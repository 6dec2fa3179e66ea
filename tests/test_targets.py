"""Compiling for a card that is not there, as far as it goes without the CUDA plugin."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import device, targets

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)


def test_without_the_plugin_it_is_said(monkeypatch):
    def find(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert "JAX's CUDA plugin" in str(targets.plugin_missing())


@pytest.mark.parametrize("there", targets.PLUGINS)
def test_either_plugin_will_do(monkeypatch, there):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name == there else None
    )
    assert targets.plugin_missing() is None


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.file)
def test_every_card_is_described_to_the_compiler(target):
    capability = "major: {} minor: {}".format(*target.device.capability)
    words = " ".join(target.description.split())
    assert capability in words, words[:200]
    assert f"core_count: {target.device.cores}" in words


def test_a_program_is_traced_for_the_card_and_its_operands_can_be_given_up(monkeypatch):
    """With this machine's CPU in the card's place."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    monkeypatch.setattr(targets, "_sharding", lambda description: here)
    seen = []

    def double(tree):
        seen.append(device.present())
        return {"x": 2 * tree["x"]}

    program = targets.compile_for(targets.A100, double, {"x": SQUARE}, donate=(0,))
    assert seen == [targets.A100.device]
    assert device.present() is None, "only while it is traced"
    given = jnp.ones((8, 8))
    np.testing.assert_array_equal(program({"x": given})["x"], 2)
    assert given.is_deleted()
