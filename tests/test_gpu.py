"""What only a GPU can show: run by `make test-gpu`, skipped elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model

from pallas_kernels.frame_attention import EMPTY_SLOT, frame_attention, last_backend

pytestmark = pytest.mark.gpu


def operands(groups: int, slots: int, tokens: int, dtype: Any) -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    batch, heads, width, prompt = 2, 3, 64, 8
    q = jax.random.normal(keys[0], (batch, groups * tokens, heads, width), dtype)
    shape = (batch, prompt + (slots - 1) * tokens, heads, width)
    k, v = (jax.random.normal(key, shape, dtype) for key in keys[1:3])
    bias = jax.random.normal(keys[3], (batch, groups, heads, slots))
    return q, k, v, bias.at[:, :, :, -1].set(EMPTY_SLOT), prompt


@pytest.mark.parametrize(("groups", "slots"), [(1, 10), (2, 10), (8, 9)])
def test_cudnn_equals_the_reference(groups: int, slots: int) -> None:
    q, k, v, bias, prompt = operands(groups, slots, 64, jnp.bfloat16)

    def attend(backend):
        def loss(q, k, v, bias):
            out = frame_attention(
                q, k, v, bias, prompt_tokens=prompt, backend=backend
            ).astype(jnp.float32)
            return jnp.square(out).sum(), out

        gradients, out = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(
            q, k, v, bias
        )
        return out, *gradients

    wanted = attend("reference")
    found = attend("cudnn")
    assert last_backend() == "cudnn"
    for name, a, b in zip(("out", "q", "k", "v", "bias"), found, wanted, strict=True):
        a, b = (np.nan_to_num(np.asarray(x, np.float64)) for x in (a, b))
        # bfloat16 keeps 8 bits: operands, probabilities and bias channels are rounded.
        assert np.linalg.norm(a - b) <= 2e-2 * np.linalg.norm(b), name


@pytest.mark.parametrize("change", [{}, {"commit": "lagged"}, {"steps": 2}])
def test_a_loop_in_the_graph_is_the_unrolled_stream(change: dict[str, Any]) -> None:
    """Started over and over, as a graph: each turn must find its own layer."""
    found = []
    for unroll in (True, False):
        stream = toy_model.settings(
            **change, attention="triton", kernels="triton", unroll=unroll
        )
        held, step = toy_model.weights(stream), toy_model.step_of(stream)
        state, arrived = toy_model.start(stream), np.ones(1, bool)
        for source in toy_model.frames(2 * toy_model.RING):
            state, _ = step(held, state, source, arrived)
        found.append(jax.device_get((state.styled, state.cache.k, state.cache.v)))
    # Products may be TF32 and cut in another way; a wrong layer would be all wrong.
    for unrolled, loop in zip(*found, strict=True):
        assert np.linalg.norm(loop - unrolled) <= 1e-2 * np.linalg.norm(unrolled)
