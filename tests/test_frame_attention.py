"""Frame attention: every backend is the reference, and the slot bias does its work."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.frame_attention import (
    EMPTY_SLOT,
    backends,
    cudnn,
    frame_attention,
    last_backend,
)

# name: batch, groups, tokens a frame, heads, head width, prompt tokens, slots
SHAPES = {
    "one_frame": (1, 1, 4, 2, 16, 4, 5),
    "two_frames": (2, 2, 6, 3, 12, 5, 4),
    "eight_frames": (1, 8, 3, 2, 8, 1, 9),
    "odd_tokens": (3, 1, 35, 1, 20, 7, 3),
    "two_slots": (2, 1, 9, 2, 4, 32, 2),
    "no_prompt": (1, 2, 5, 2, 8, 0, 4),
}
CASES = [pytest.param(*shape, id=name) for name, shape in SHAPES.items()]


def operands(batch, groups, tokens, heads, width, prompt, slots, empty=()):
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    keys = prompt + (slots - 1) * tokens
    bias = draw(batch, groups, heads, slots)
    bias[..., list(empty)] = EMPTY_SLOT
    return (
        draw(batch, groups * tokens, heads, width),
        draw(batch, keys, heads, width),
        draw(batch, keys, heads, width),
        bias,
    )


def by_hand(values, prompt):
    """The definition with loops over everything, in float64."""
    q, k, v, bias = values
    batch, queries, heads, width = q.shape
    groups, slots = bias.shape[1], bias.shape[3]
    tokens = (k.shape[1] - prompt) // (slots - 1)
    out = np.zeros(q.shape)
    for b, i, head in np.ndindex(batch, queries, heads):
        group = i // (queries // groups)
        logits = []
        for j in range(k.shape[1]):
            slot = 0 if j < prompt else 1 + (j - prompt) // tokens
            dot = q[b, i, head].astype(float) @ k[b, j, head]
            logits.append(dot / width**0.5 + bias[b, group, head, slot])
        weights = np.exp(np.array(logits) - max(logits))
        out[b, i, head] = weights / weights.sum() @ v[b, :, head]
    return out


@functools.cache
def compiled(backend, prompt):
    """Output, and the gradients of a weighted sum of it."""

    def both(q, k, v, bias, cotangent):
        attend = functools.partial(
            frame_attention, prompt_tokens=prompt, backend=backend
        )
        out, pull = jax.vjp(attend, q, k, v, bias)
        return out, pull(cotangent)

    return jax.jit(both)


def run(backend, prompt, values):
    cotangent = np.random.default_rng(1).normal(size=values[0].shape)
    cotangent = cotangent.astype(np.float32)
    return jax.device_get(compiled(backend, prompt)(*values, cotangent))


@pytest.mark.parametrize("batch, groups, tokens, heads, width, prompt, slots", CASES)
@pytest.mark.parametrize("empty", [(), (1,), (0,)], ids=["full", "frame", "prompt"])
def test_xla_is_the_reference(
    batch, groups, tokens, heads, width, prompt, slots, empty
):
    if slots == 2 or prompt == 0:
        empty = ()  # a query must see something, and have a choice
    shape = (batch, groups, tokens, heads, width, prompt, slots)
    values = operands(*shape, empty=empty)
    expected, expected_gradients = run("reference", prompt, values)
    found, gradients = run("xla", prompt, values)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for name, a, b in zip("qkvs", gradients, expected_gradients, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)
    assert np.abs(gradients[3]).max() > 1e-3, "the bias must learn"


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_the_definition(backend):
    values = operands(*SHAPES["two_frames"], empty=(2,))
    found, _ = run(backend, 5, values)
    np.testing.assert_allclose(found, by_hand(values, 5), atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_an_empty_slot_has_no_influence(backend):
    tokens, prompt, slots = 6, 5, 4
    q, k, v, bias = operands(2, 2, tokens, 3, 12, prompt, slots, empty=(2,))
    hidden = slice(prompt + tokens, prompt + 2 * tokens)
    before, gradients = run(backend, prompt, (q, k, v, bias))
    for gradient in gradients[1:3]:
        assert not gradient[:, hidden].any()
        assert gradient[:, : hidden.start].any() and gradient[:, hidden.stop :].any()
    assert not gradients[3][..., 2].any()
    k[:, hidden] = 1e3
    v[:, hidden] = -1e3
    after, _ = run(backend, prompt, (q, k, v, bias))
    np.testing.assert_array_equal(before, after)


def test_a_slot_empty_for_one_group_serves_the_other():
    # As in the lagged commit: the previous frame must not see the current one.
    q, k, v, bias = operands(1, 2, 6, 3, 12, 5, 4)
    bias[:, 0, :, 3] = EMPTY_SLOT
    before, _ = run("xla", 5, (q, k, v, bias))
    v[:, 5 + 2 * 6 :] += 1
    after, _ = run("xla", 5, (q, k, v, bias))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).min(axis=(0, 2, 3)).max() > 1e-3


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_the_order_of_the_slots_means_nothing(backend):
    prompt, tokens = 5, 6
    q, k, v, bias = operands(2, 2, tokens, 3, 12, prompt, 4)
    order = np.array([2, 0, 1])

    def shuffle(x):
        slots = x[:, prompt:].reshape(2, 3, tokens, *x.shape[2:])[:, order]
        return np.concatenate([x[:, :prompt], slots.reshape(x[:, prompt:].shape)], 1)

    turned = np.concatenate([bias[..., :1], bias[..., 1:][..., order]], axis=-1)
    before, _ = run(backend, prompt, (q, k, v, bias))
    after, _ = run(backend, prompt, (q, shuffle(k), shuffle(v), turned))
    np.testing.assert_allclose(before, after, atol=2e-6)


def test_half_precision_stays_close_and_keeps_its_type():
    # One rounding of weights and values to 8 bits of mantissa: below 1 % of the spread.
    values = operands(*SHAPES["two_frames"], empty=(2,))
    half = [jnp.asarray(x, jnp.bfloat16) for x in values[:3]]
    exact = [np.asarray(x, np.float32) for x in half]
    attend: Any = functools.partial(frame_attention, prompt_tokens=5)
    found = attend(*half, values[3], backend="xla")
    expected = attend(*exact, values[3], backend="reference")
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=0.02)


def test_the_backend_that_ran_is_known():
    values = operands(*SHAPES["one_frame"])
    for backend in ("reference", "xla"):
        frame_attention(*values, prompt_tokens=4, backend=backend)
        assert last_backend() == backend
    if jax.default_backend() == "cpu":
        frame_attention(*values, prompt_tokens=4)
        assert last_backend() == "xla"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_backend_that_cannot_says_so_when_asked_by_name(dtype):
    if jax.default_backend() != "cpu":
        pytest.skip("cuDNN may run here")
    *qkv, bias = operands(*SHAPES["one_frame"])
    q, k, v = (jnp.asarray(x, dtype) for x in qkv)
    with pytest.raises(NotImplementedError, match="cuDNN"):
        frame_attention(q, k, v, bias, prompt_tokens=4, backend="cudnn")


def test_an_unknown_backend_is_named():
    assert set(backends()) >= {"reference", "xla", "cudnn"}
    q, k, v, bias = operands(*SHAPES["one_frame"])
    with pytest.raises(ValueError, match="'magic'"):
        frame_attention(q, k, v, bias, prompt_tokens=4, backend="magic")


@pytest.mark.parametrize(
    "change, named",
    [
        ({"prompt_tokens": 3}, "prompt_tokens=3"),
        ({"prompt_tokens": 20}, "prompt_tokens=20"),
        ({"q": (1, 5, 2, 16), "bias": (1, 2, 2, 5)}, "groups"),
        ({"q": (1, 4, 2, 8)}, "do not fit"),
        ({"q": (1, 4, 3, 16)}, "do not fit"),
        ({"v": (1, 16, 2, 16)}, "do not fit"),
        ({"bias": (1, 1, 2, 1)}, "slots=1"),
        ({"q": (2, 4, 2, 16)}, "do not fit"),
        ({"bias": (2, 1, 2, 5)}, "do not fit"),
        ({"bias": (1, 1, 1, 5)}, "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, named):
    shapes = {
        "q": (1, 4, 2, 16),
        "k": (1, 20, 2, 16),
        "v": (1, 20, 2, 16),
        "bias": (1, 1, 2, 5),
    }
    shapes |= {name: shape for name, shape in change.items() if name in shapes}
    q, k, v, bias = (jnp.zeros(shape) for shape in shapes.values())
    prompt = change.get("prompt_tokens", 4)
    with pytest.raises(ValueError, match=named):
        frame_attention(q, k, v, bias, prompt_tokens=prompt)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_bias_in_extra_channels_stays_finite(dtype, monkeypatch):
    """Of a slot that one frame sees and the other does not; XLA attends for cuDNN."""
    attend = jax.nn.dot_product_attention
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *x, scale, implementation: attend(*x, scale=scale),
    )
    *values, bias = operands(1, 2, 6, 2, 64, 4, 4)
    bias[:, 0, :, 3] = EMPTY_SLOT
    q, k, v = (jnp.asarray(x, dtype) for x in values)
    found = cudnn.attend(q, k, v, bias, prompt_tokens=4)
    wanted = by_hand([*(np.asarray(x, np.float64) for x in (q, k, v)), bias], 4)
    # The bias has as many bits as the type: 8 of bfloat16.
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=0.03)
