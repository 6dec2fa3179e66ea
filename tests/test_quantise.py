"""Quantisation of rows: the kernel is the definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.eight_bit import LARGEST, quantise_rows
from pallas_kernels.quantise import quantise, triton


def rows(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("to", LARGEST)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", [(3, 64), (1, 2, 5, 72)])
def test_the_kernel_is_the_definition(shape, dtype, to):
    x = rows(*shape, dtype=dtype)
    wanted = quantise(x, to)
    found = triton.quantise(x, to, interpret=True)
    assert found.values.dtype == jnp.dtype(to) and found.values.shape == shape
    np.testing.assert_allclose(found.scale, wanted.scale, rtol=1e-6)
    # A number between two of the format may go to either, by the order of operations.
    step = wanted.scale[..., None] * (1 if to == "int8" else 32)
    a, b = (q.values.astype(jnp.float32) * q.scale[..., None] for q in (found, wanted))
    assert np.all(np.abs(a - b) <= 1.001 * step)
    assert np.mean(np.asarray(a != b)) < 0.01


def test_a_row_of_zeros_stays_zero():
    found = triton.quantise(jnp.zeros((2, 64)), "int8", interpret=True)
    assert not found.values.any() and np.all(found.scale > 0)


def test_xla_is_the_definition():
    x = rows(4, 32)
    wanted = quantise_rows(x.astype(jnp.float32), "int8")
    np.testing.assert_array_equal(quantise(x, "int8").values, wanted.values)


@pytest.mark.parametrize(
    "change",
    [{"backend": "cuda"}, {"to": "int4"}, {"to": None}, {"x": rows(8)}],
    ids=str,
)
def test_wrong_callers_are_told(change):
    named = {"x": rows(2, 8), "to": "int8"} | change
    with pytest.raises(ValueError):
        quantise(named.pop("x"), named.pop("to"), **named)


def test_what_the_kernel_cannot_do_is_not_implemented(monkeypatch):
    monkeypatch.setattr(triton.device, "present", lambda: None)
    with pytest.raises(NotImplementedError, match="needs a GPU"):
        quantise(rows(2, 8), "int8", backend="triton")
    with pytest.raises(NotImplementedError, match="wider"):
        quantise(rows(1, triton.WIDEST + 1), "int8", backend="triton")
