"""Attention of a training clip: who sees whom, and that parts are the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.clip_attention import NEIGHBOURS, attend_clip, clip_slot_bias
from pallas_kernels.frame_attention import frame_attention

HEADS, WIDTH, TOKENS, PROMPT, RING = 2, 4, 3, 2, 3


def test_the_slot_bias_of_a_clip_is_that_of_a_loop():
    heads, ring, count = 2, 2, 6
    bias = np.random.default_rng(0).normal(size=(heads, ring + 3)).astype(np.float32)
    anchored = np.array([False, True])
    found = clip_slot_bias(jnp.asarray(bias), count, jnp.asarray(anchored))
    assert found.shape == (2, count, heads, count + 1)
    expected = np.full(found.shape, -np.inf, np.float32)
    for b, query, head in np.ndindex(2, count, heads):
        expected[b, query, head, 0] = bias[head, 0]
        for frame in range(query + 1):
            if anchored[b] and frame == 0 and query > 0:
                expected[b, query, head, 1] = bias[head, 1]
            elif query - frame <= ring:
                expected[b, query, head, frame + 1] = bias[head, 2 + query - frame]
    np.testing.assert_array_equal(found, expected)


def operands(frames):
    """q, k, v, the prompt's k and v, and the table of biases, of two clips."""
    keys = iter(jax.random.split(jax.random.key(frames), 6))

    def drawn(count):
        return jax.random.normal(next(keys), (2, count, HEADS, WIDTH))

    q, k, v = (drawn(frames * TOKENS) for _ in range(3))
    prompt = drawn(PROMPT), drawn(PROMPT)
    return q, k, v, prompt, jax.random.normal(next(keys), (HEADS, RING + 3))


# One frame; less than are read together; as many; a past that begins behind frame 0
# within a group, and one with frames between it and frame 0.
@pytest.mark.parametrize(
    "frames", [1, NEIGHBOURS - 1, NEIGHBOURS, NEIGHBOURS + 2, 3 * NEIGHBOURS]
)
def test_groups_of_frames_see_what_all_at_once_see(frames):
    anchored = jnp.array([False, True])

    def in_groups(q, k, v, prompt, table):
        bias = clip_slot_bias(table, frames, anchored)
        return attend_clip(q, k, v, prompt, bias, RING, backend="xla")

    def at_once(q, k, v, prompt, table):
        bias = clip_slot_bias(table, frames, anchored)
        k, v = (jnp.concatenate(x, axis=1) for x in zip(prompt, (k, v), strict=True))
        return frame_attention(q, k, v, bias, prompt_tokens=PROMPT, backend="xla")

    given = operands(frames)
    upstream = jax.random.normal(jax.random.key(9), given[0].shape)

    @functools.partial(jax.jit, static_argnums=0)
    def with_slopes(attend):
        found, pull = jax.vjp(attend, *given)
        return jax.tree.leaves((found, pull(upstream)))

    # Sums of the same numbers in another order, in float32.
    for found, expected in zip(
        with_slopes(in_groups), with_slopes(at_once), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_groups_do_less_than_all_at_once():
    """A clip of 16 frames with a ring of 7: 144 pairs of frames and not 256."""
    tokens, frames, width = 64, 16, 64

    def keys(count):
        return jax.ShapeDtypeStruct((1, count, HEADS, width), jnp.float32)

    def in_groups(q, k, v, prompt, table):
        bias = clip_slot_bias(table, frames, jnp.zeros(1, bool))
        return attend_clip(q, k, v, prompt, bias, 7, backend="xla")

    all_keys, prompt = keys(frames * tokens), (keys(PROMPT),) * 2
    table = jax.ShapeDtypeStruct((HEADS, 7 + 3), jnp.float32)
    lowered = jax.jit(in_groups).lower(*[all_keys] * 3, prompt, table)
    flops = (lowered.cost_analysis() or {})["flops"]
    pairs = 144 * tokens**2 + frames * tokens * PROMPT
    products = 4 * HEADS * width * pairs
    assert products < flops < 1.1 * products  # the rest is the softmax
