"""How the program of a frame is compiled: its memory, its graph, its weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import MODEL, frames, params, settings, start

from mirage_jax.config import MODELS
from mirage_jax.convolution import filters_first
from mirage_jax.device_weights import held_weights
from mirage_jax.frame_compiler import (
    GRAPH_OPTION,
    UNROLL_OPTION,
    frame_options,
    frame_program,
    settled,
)
from mirage_jax.stream import make_step
from mirage_jax.stream_config import StreamConfig
from pallas_kernels import device
from pallas_kernels.linear import api as linear
from pallas_kernels.targets import H100


@pytest.mark.parametrize(
    "change", [{}, {"commit": "lagged"}, {"commit": "clean", "anchor": True}]
)
def test_all_that_a_step_leaves_takes_the_place_of_what_it_got(change):
    stream = settings(**change)
    lowered = make_step(MODEL, stream).lower(params(), start(stream), frames(1)[0])
    results = {"style": len(jax.tree.leaves(start(stream))), "decode": 1}
    for name, program in lowered.compile().stages.items():
        memory = program.memory_analysis()
        left = memory.output_size_in_bytes - memory.alias_size_in_bytes
        if name == "encode":  # the latent, which is new
            assert left == start(stream).source.nbytes
            continue
        # Beside them there is the table of the results, an address each.
        assert 0 <= left <= 8 * results[name]
        # The smallest buffer that could be anew is larger.
        assert left < frames(1)[0].nbytes


def test_a_source_on_the_device_is_used_up_and_one_of_the_host_is_not():
    stream = settings()
    step = toy_model.step_of(stream)
    held, arrived = toy_model.weights(stream), np.ones(1, bool)
    clip = frames(2)
    kept, there = clip.copy(), jax.device_put(clip[1])
    state, first = step(held, start(stream), clip[0], arrived)
    state, _ = step(held, state, there, arrived)
    assert there.is_deleted() and not first.is_deleted()
    np.testing.assert_array_equal(clip, kept)


def test_convolutions_join_the_graph_on_a_gpu_alone(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert frame_options() is None, "this is a CPU"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = frame_options()
    assert options is not None and "CONVOLUTION" in options[GRAPH_OPTION].split(",")
    # XLA knows every name: it reads them for a CPU too.
    double = jax.jit(lambda x: 2 * x, compiler_options=options)
    assert double(jnp.ones(())) == 2
    monkeypatch.setenv("XLA_FLAGS", f"--{GRAPH_OPTION}=")
    assert frame_options() is None, "whoever sets the flag has the last word"


def test_a_loop_of_layers_joins_the_graph_turn_after_turn(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert frame_options(loop=True) is None, "this is a CPU"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plain, options = frame_options(), frame_options(loop=True)
    assert plain is not None and options is not None
    assert "WHILE" not in plain[GRAPH_OPTION] and UNROLL_OPTION not in plain
    assert options[GRAPH_OPTION] == f"{plain[GRAPH_OPTION]},WHILE"
    double = jax.jit(lambda x: 2 * x, compiler_options=options)
    assert double(jnp.ones(())) == 2


def test_layers_are_a_loop_where_mosaic_runs_the_dense_ones(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    mosaic = settings(unroll=None, linear="mosaic")
    assert settled(MODEL, mosaic).unroll, "this is a CPU"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert settled(MODEL, mosaic).unroll is False
    for other in ({"linear": "xla"}, {}, {"eight_bit": "int8"}):
        assert settled(MODEL, settings(unroll=None, **other)).unroll
    for unroll in (True, False):
        stream = dataclasses.replace(mosaic, unroll=unroll)
        assert settled(MODEL, stream) == stream, "who names it gets it"
    monkeypatch.setenv("XLA_FLAGS", f"--{GRAPH_OPTION}=")
    assert settled(MODEL, mosaic).unroll, "there is no graph for a loop"


@pytest.mark.parametrize("name, unroll", [("lsd_880m", False), ("default", True)])
def test_on_an_h100_the_big_model_has_the_loop(monkeypatch, name, unroll):
    """By that card's table, as if its kernels compiled here."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(device, "present", lambda: H100.device)
    monkeypatch.setitem(linear._BACKENDS, "mosaic", linear._BACKENDS["xla"])
    linear.TRIALS.forget()
    for change in ({}, {"commit": "lagged"}, {"steps": 2}):
        assert settled(MODELS[name], StreamConfig(**change)).unroll is unroll
    linear.TRIALS.forget()


def test_layers_are_unrolled_unless_somebody_chose_a_loop():
    found = [settings(unroll=unroll).unrolled for unroll in (None, True, False)]
    assert found == [True, True, False]


def test_a_program_gets_the_settled_stream():
    given = []

    def call(x, *, model, stream):
        given.append((model, stream))
        return x + 1

    stream = settings(unroll=None)
    assert frame_program(call, MODEL, stream, donate=())(1) == 2
    assert given == [(MODEL, dataclasses.replace(stream, unroll=True))]


def test_filters_first_are_the_same_stream():
    stream = settings()
    held, turned = params(), filters_first(params())
    pictures = []
    for weights in (held, turned):
        step = toy_model.step_with(weights, stream)
        _, picture = step(weights, start(stream), frames(1)[0], np.ones(1, bool))
        pictures.append(np.asarray(picture).astype(int))
    # The same sums in another order may round to the neighbouring byte.
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_gpu_holds_every_kernel_of_a_convolution_with_its_filters_first(monkeypatch):
    def shapes(tree, name):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return [x.shape for path, x in leaves if x.ndim == 4 and path[-1].key == name]

    kernels = shapes(params(), "kernel")
    assert len(kernels) > 10
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    held = held_weights(params(), settings())
    assert not shapes(held, "kernel")
    assert shapes(held, "filters") == [(o, h, w, i) for h, w, i, o in kernels]
