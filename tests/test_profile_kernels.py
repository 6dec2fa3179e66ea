"""The list of kernels, from a profile made by hand; the traced programs at toy size."""

import dataclasses
import importlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import toy_model
from absl import flags

from experiments import profile_kernels
from mirage_jax.errors import MirageError
from mirage_jax.frame_compiler import frame_program


def event(name, microseconds):
    return SimpleNamespace(name=name, duration_ns=1e3 * microseconds)


def profile(*events, plane="/device:GPU:0"):
    lines = [
        SimpleNamespace(name="Stream #14(Compute)", events=events),
        SimpleNamespace(name="XLA Ops", events=[event("all", 1000)]),
    ]
    return SimpleNamespace(planes=[SimpleNamespace(name=plane, lines=lines)])


def test_kernels_of_one_name_are_added_up():
    seen = profile(event("norm_1", 2), event("norm_2_0", 4), event("gemm", 10))
    kernels = profile_kernels.by_kernel(seen, calls=2)
    assert kernels == {"gemm": (5, 0.5), "norm": (3, 1)}
    results = {r.name: r.value for r in profile_kernels.to_results("pass", kernels)}
    assert results["us/pass/all"] == 8 and results["launches/pass/all"] == 1.5
    assert "8.0 us in 2 kernels" in profile_kernels.table("pass", kernels, 1)
    assert "norm" not in profile_kernels.table("pass", kernels, 1)


def test_a_profile_without_kernels_is_an_error():
    with pytest.raises(MirageError, match="saw no kernel"):
        profile_kernels.by_kernel(profile(event("add", 1), plane="/host:CPU"), 1)


@pytest.mark.parametrize("name", ["encode", "pass", "decode"])
def test_programs_return_the_next_carry(name):
    stream = dataclasses.replace(toy_model.settings(), batch=1)
    call, first = profile_kernels._programs(toy_model.MODEL, stream)[name]
    carry = jax.eval_shape(first, toy_model.params())
    program = frame_program(call, toy_model.MODEL, stream, donate=1)
    found = jax.eval_shape(program, toy_model.params(), carry)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), carry
    )
    assert all(jnp.issubdtype(x.dtype, jnp.number) for x in jax.tree.leaves(found))


def test_without_a_gpu_it_says_so():
    module = importlib.reload(profile_kernels)
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(MirageError, match="no NVIDIA GPU"):
        module.profile_kernels()
