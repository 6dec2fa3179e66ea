"""Every operation chooses its backend by the table of the device, or takes XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_h100 import H100, forget, fresh, no_tables  # noqa: F401

from pallas_kernels import choice, linear, linear_8bit, quantise, tuned_table
from pallas_kernels import modulated_norm as norms
from pallas_kernels import qk_norm_rope_commit as commits
from pallas_kernels._mosaic import HAS_MOSAIC
from pallas_kernels.eight_bit import quantise_rows
from pallas_kernels.linear.choice import OP as LINEAR
from pallas_kernels.linear.problem import problem_of as linear_problem
from pallas_kernels.linear_8bit.choice import OP as LINEAR_8BIT
from pallas_kernels.modulated_norm.problem import OP as NORM
from pallas_kernels.modulated_norm.problem import problem_of as norm_problem
from pallas_kernels.qk_norm_rope_commit.problem import OP as COMMIT
from pallas_kernels.qk_norm_rope_commit.problem import problem_of as commit_problem
from pallas_kernels.quantise.problem import OP as QUANTISE
from pallas_kernels.quantise.problem import problem_of as rows_problem

H200 = dataclasses.replace(H100, kind="NVIDIA H200")


def prefer(op, problem, backend, card=H100):
    """That backend was measured on the card, and was faster than XLA."""
    row = {
        "problem": dataclasses.asdict(problem),
        "configs": {},
        "microseconds": {backend: 1.0, "xla": 2.0},
    }
    tuned_table.write(tuned_table.path_of(card), card, op.name, [row])
    forget()


def norm():
    x = jnp.ones((1, 2, 4, 32), jnp.bfloat16)
    vector = jnp.ones((1, 2, 32), jnp.bfloat16)
    call = lambda: norms.gated_residual_norm(x, x, vector, vector, vector)  # noqa: E731
    return norms, NORM, norm_problem(x, True, None), "triton", call


def commit():
    qkv = jnp.ones((1, 4, 3, 2, 16), jnp.bfloat16)
    slots = jnp.zeros((2, 1, 12, 2, 16), jnp.bfloat16)
    ones, angles, starts = jnp.ones((2, 16)), jnp.ones((4, 8)), jnp.zeros(1, jnp.int32)
    operands = (qkv, ones, ones, angles, angles, slots, slots, jnp.int32(1), starts)
    call = lambda: commits.qk_norm_rope_commit(*operands)  # noqa: E731
    return commits, COMMIT, commit_problem(qkv, slots, starts), "triton", call


def dense():
    x, kernel = jnp.ones((1, 1, 64, 64), jnp.bfloat16), jnp.ones((64, 64), jnp.bfloat16)
    problem = linear_problem(
        x, 64, None, None, None, activation="gelu", dtype=jnp.bfloat16
    )
    call = lambda: linear.linear(x, kernel, activation="gelu")  # noqa: E731
    return linear, LINEAR, problem, "mosaic", call


def dense_8bit():
    x = quantise_rows(jnp.ones((1, 1, 16, 32)), "int8")
    weight = linear_8bit.quantise_weight(jnp.ones((32, 48)), "int8")
    problem = linear_problem(
        x.values, 48, None, None, None, activation=None, dtype=jnp.bfloat16
    )
    call = lambda: linear_8bit.linear_8bit(x, weight)  # noqa: E731
    return linear_8bit, LINEAR_8BIT, problem, "triton", call


def rows():
    x = jnp.ones((1, 1, 16, 32), jnp.bfloat16)
    call = lambda: quantise.quantise(x, "int8")  # noqa: E731
    return quantise, QUANTISE, rows_problem(x, "int8"), "triton", call


CASES = (norm, commit, dense, dense_8bit, rows)


@pytest.mark.parametrize("case", CASES)
def test_without_a_measurement_it_is_xla(case):
    module, _, _, _, call = case()
    call()
    assert module.last_backend() == "xla"


@pytest.mark.parametrize("case", CASES)
def test_what_a_table_prefers_is_tried_and_passed_over_where_it_fails(case):
    """Here no kernel compiles, for want of a GPU: a result must come all the same."""
    module, op, problem, backend, call = case()
    if backend == "mosaic" and not HAS_MOSAIC:
        pytest.skip("the Hopper kernel says that it needs jax 0.11, without a warning")
    wanted = call()
    prefer(op, problem, backend)
    assert choice.backend_order(op, problem, H100)[0] == backend
    with pytest.warns(RuntimeWarning, match=f"goes on without '{backend}'") as caught:
        found = jax.jit(call)()
    assert len(caught) == 1 and module.last_backend() == "xla"
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=2e-2
        )


@pytest.mark.parametrize("case", CASES)
def test_a_backend_that_compiles_is_taken(case, monkeypatch):
    module, op, problem, backend, call = case()
    prefer(op, problem, backend)
    table = module.api._BACKENDS
    monkeypatch.setitem(table, backend, table["xla"])
    call()
    assert module.last_backend() == backend


def test_other_matrices_and_formats_are_other_problems():
    _, op, problem, _, _ = dense()
    prefer(op, problem, "mosaic")
    for change in ({"inputs": 128}, {"outputs": 128}, {"format": "float16"}):
        other = dataclasses.replace(problem, **change)
        assert choice.backend_order(op, other, H100) == ("xla",), change
    near = dataclasses.replace(problem, tokens=128)
    assert choice.backend_order(op, near, H100) == ("mosaic", "xla")


def best(card, problem):
    return choice.backend_order(NORM, problem, card)[0]


def test_a_card_without_a_table_takes_that_of_its_chip():
    problem = norm()[2]
    prefer(NORM, problem, "triton")
    smaller = dataclasses.replace(H200, cores=H100.cores - 18)  # an H100 for PCIe
    assert [best(card, problem) for card in (H100, H200)] == ["triton"] * 2
    assert best(smaller, problem) == "xla"


def test_what_a_cards_own_table_lacks_is_that_of_its_chip():
    measured = norm()[2]
    lacked = dataclasses.replace(measured, to="int8")
    for problem in (measured, lacked):
        prefer(NORM, problem, "triton")
    prefer(NORM, measured, "reference", H200)
    assert best(H200, measured) == "reference", "its own comes first"
    assert best(H200, lacked) == "triton"
    near = dataclasses.replace(measured, tokens=measured.tokens + 1)
    assert best(H200, near) == "reference", "and of two that are as near as well"
    assert best(H100, measured) == "triton"


def test_a_broken_table_of_its_own_hides_none_of_its_chip():
    problem = norm()[2]
    prefer(NORM, problem, "triton")
    tuned_table.path_of(H200).write_text("{")
    with pytest.warns(RuntimeWarning, match="unreadable table .*nvidia_h200.json"):
        assert best(H200, problem) == "triton"
