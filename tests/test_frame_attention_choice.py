"""Which backend runs: by name, by measurement, or what is left when one fails."""

import dataclasses
import json
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_h100 import H100, fresh, no_tables  # noqa: F401

from pallas_kernels import choice, device, tuned_table
from pallas_kernels.device import Device
from pallas_kernels.frame_attention import api, frame_attention, last_backend
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.config import Config, default_config
from pallas_kernels.frame_attention.problem import Problem, problem_of
from pallas_kernels.frame_attention.specs import BARS, SMALL, SPECS

CONFIG = Config(128, 64, 4, 8, 3)


def write_table(rows, **other):
    table = {"device": H100.kind, "jax": "0", OP.name: rows} | other
    tuned_table.path_of(H100).write_text(json.dumps(table))


def row(problem, **microseconds):
    return {
        "problem": dataclasses.asdict(problem),
        "configs": {"triton": dataclasses.asdict(CONFIG)},
        "microseconds": microseconds,
    }


def test_without_a_table_our_kernel_comes_first_on_a_gpu():
    problem = BARS["lsd_256"].problem
    assert choice.backend_order(OP, problem, H100) == ("triton", "cudnn", "xla")
    assert choice.backend_order(OP, problem, None) == ("xla",)
    assert choice.tuned_config(OP, problem, H100, "triton") is None


def test_the_fastest_measured_backend_comes_first():
    problem = BARS["lsd_256"].problem
    write_table([row(problem, xla=300.0, cudnn=40.0, triton=15.0)])
    assert choice.backend_order(OP, problem, H100) == ("triton", "cudnn", "xla")
    assert choice.tuned_config(OP, problem, H100, "triton") == CONFIG


def test_a_measurement_serves_its_neighbours():
    problem = BARS["lsd_256"].problem
    write_table([row(problem, triton=15.0, xla=300.0)])
    near_changes: list[dict[str, Any]] = [
        {"layers": 30},
        {"frames": 9},
        {"prompt": 8},
        {"keys": 512},
    ]
    for change in near_changes:
        near = dataclasses.replace(problem, **change)
        assert choice.tuned_config(OP, near, H100, "triton") == CONFIG, change
    far_changes: list[dict[str, Any]] = [
        {"width": 64},
        {"dtype": "float32"},
        {"queries": 1024},
    ]
    for change in far_changes:
        far = dataclasses.replace(problem, **change)
        assert choice.tuned_config(OP, far, H100, "triton") is None, change


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"frame_attention": [{}]}', '{"frame_attention": 3}'],
)
def test_a_broken_table_is_reported_and_left_alone(text):
    tuned_table.path_of(H100).write_text(text)
    problem = BARS["lsd_256"].problem
    with pytest.warns(RuntimeWarning, match="nvidia_h100_80gb_hbm3.json"):
        assert choice.backend_order(OP, problem, H100) == OP.unmeasured


def test_a_row_that_makes_no_sense_is_left_out():
    problem = BARS["lsd_256"].problem
    bad = row(problem, triton=1.0) | {"configs": {"triton": {"block_q": 3}}}
    write_table([bad, row(problem, triton=2.0, xla=1.0)])
    with pytest.warns(RuntimeWarning, match="left out"):
        assert choice.backend_order(OP, problem, H100)[0] == "xla"


def test_a_backend_that_fails_to_compile_is_passed_over_with_one_warning():
    """Here the Triton kernel fails to lower, as one too large for a card would."""
    spec = SMALL["plain"]
    operands = spec.operands(0)
    write_table([row(spec.problem, triton=1.0, xla=2.0)])
    call = jax.jit(lambda *x: frame_attention(*x, prompt_tokens=spec.problem.prompt))
    with pytest.warns(RuntimeWarning, match="goes on without 'triton'") as caught:
        found = call(*operands)
    assert len(caught) == 1 and last_backend() == "xla"
    other = dataclasses.replace(spec.problem, batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Neither again for the same sizes, nor for others.
        frame_attention(*operands, prompt_tokens=spec.problem.prompt)
        q, k, v, bias = doubled = [jnp.concatenate([x, x]) for x in operands]
        assert problem_of(q, k, v, bias, spec.problem.prompt) == other
        again = frame_attention(*doubled, prompt_tokens=spec.problem.prompt)
    np.testing.assert_allclose(again[:1], found, atol=1e-6)


def test_a_declared_limit_needs_no_warning(monkeypatch):
    def cannot(*_, **__):
        raise NotImplementedError("too old a card")

    monkeypatch.setitem(api._BACKENDS, "triton", cannot)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame_attention(*SMALL["plain"].operands(0), prompt_tokens=16)
    assert last_backend() == "xla"  # cuDNN says that it needs half precision


def test_asked_for_by_name_a_failure_is_an_error():
    with pytest.raises(Exception, match="(?i)interpret"):
        frame_attention(*SMALL["plain"].operands(0), prompt_tokens=16, backend="triton")


@pytest.mark.parametrize("around", ["jit", "vmap", "scan", "grad", "remat"])
def test_a_backend_is_tried_out_inside_any_transformation(around, monkeypatch):
    tried = []

    def fake(q, k, v, slot_bias, *, prompt_tokens):
        tried.append(q.shape)
        return q + 0 * v.sum() * slot_bias[..., 0].sum()

    monkeypatch.setitem(api._BACKENDS, "triton", fake)
    q, k, v, bias = SMALL["plain"].operands(0)
    attend = lambda q: frame_attention(q, k, v, bias, prompt_tokens=16)  # noqa: E731
    if around == "jit":
        out = jax.jit(attend)(q)
    elif around == "vmap":
        out = jax.vmap(attend)(q[None])[0]
    elif around == "scan":
        out, _ = jax.lax.scan(lambda q, _: (attend(q), None), q, None, length=2)
    else:
        call = jax.checkpoint(attend) if around == "remat" else attend
        out = jax.grad(lambda q: jnp.sum(call(q) * q) / 2)(q)
    assert last_backend() == "triton" and len(tried) >= 2
    np.testing.assert_allclose(out, q, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_any_backend_can_read_one_layer(backend):
    spec = SMALL["layers"]
    q, k, v, bias = spec.operands(0)
    prompt = spec.problem.prompt
    for layer in range(spec.problem.layers):
        found = frame_attention(
            q, k, v, bias, prompt_tokens=prompt, layer=layer, backend=backend
        )
        wanted = frame_attention(
            *(q, k[layer], v[layer], bias[layer]),
            prompt_tokens=prompt,
            backend=backend,
        )
        np.testing.assert_array_equal(found, wanted)


def test_a_layer_needs_layers_and_layers_a_layer():
    q, k, v, bias = SMALL["layers"].operands(0)
    with pytest.raises(ValueError, match="layer=None"):
        frame_attention(q, k, v, bias, prompt_tokens=4)
    with pytest.raises(ValueError, match="layer=0"):
        frame_attention(q, k[0], v[0], bias[0], prompt_tokens=4, layer=0)
    with pytest.raises(ValueError, match="differ in layers"):
        frame_attention(q, k, v, bias[1:], prompt_tokens=4, layer=0)
    with pytest.raises(ValueError, match="wrong ranks"):
        frame_attention(q, k, v, bias[0], prompt_tokens=4, layer=0)


@pytest.mark.parametrize("name", SPECS)
def test_sizes_follow_from_the_operands(name):
    problem = SPECS[name].problem
    q, k, v, bias = problem.abstract
    assert problem_of(q, k, v, bias, problem.prompt) == problem


def test_sizes_that_are_none_are_named():
    with pytest.raises(ValueError, match="heads"):
        Problem(1, 1, 16, 2, 16, 0, 0, 16)
    with pytest.raises(TypeError):
        Problem(1, 1, 16, 2, 16, 0, 1, 16, "decimal")


def test_the_work_of_a_shape_counts_what_is_seen():
    plain, lagged = BARS["lsd_256"], BARS["lsd_256_lagged"]
    keys = 8 * 256 + 32
    assert plain.flops == 4 * 256 * keys * 12 * 128
    assert plain.bytes_moved == 2 * 12 * 128 * (2 * 256 + 2 * keys)
    assert lagged.flops == 4 * 256 * (2 * keys - 256) * 12 * 128
    empty = dataclasses.replace(plain, empty=(1,))
    assert empty.flops == 4 * 256 * (keys - 256) * 12 * 128


def test_an_unknown_card_counts_as_the_smallest():
    unknown = Device("NVIDIA X", (11, 3), 50)
    assert unknown.shared_memory == min(device.SHARED_MEMORY.values())
    assert unknown.slug == "nvidia_x"
    assert default_config(BARS["lsd_256"].problem, unknown).num_stages >= 1
