"""The gradient of attention over slots that a pass has written."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.written_slots import Written, attend_written
from pallas_kernels.frame_attention import frame_attention

LAYERS, STREAMS, TOKENS, HEADS, WIDTH, PROMPT, SLOTS = 2, 2, 4, 2, 8, 3, 4
KEYS = PROMPT + SLOTS * TOKENS
LAYER = 1
attention: Any = partial(frame_attention, prompt_tokens=PROMPT, backend="xla")


def operands(frames: int) -> Any:
    keys = iter(jax.random.split(jax.random.key(frames), 8))

    def draw(*shape):
        return jax.random.normal(next(keys), shape)

    rows = STREAMS, frames * TOKENS, HEADS, WIDTH
    stack = LAYERS, STREAMS, KEYS, HEADS, WIDTH
    prompt = STREAMS, PROMPT, HEADS, WIDTH
    learnt = {
        "q": draw(*rows),
        "k": draw(*rows),
        "v": draw(*rows),
        "prompt_k": draw(*prompt),
        "prompt_v": draw(*prompt),
        "bias": draw(LAYERS, STREAMS, frames, HEADS, SLOTS + 1),
    }
    # Not side by side, and not in order.
    starts = PROMPT + TOKENS * jnp.array([3, 1][:frames])
    return learnt, draw(*stack), draw(*stack), starts


def filled(stack, rows, prompt, starts):
    """A stack with what a pass writes, as `qk_norm_rope_commit` and `set_prompt` do."""
    stack = stack.at[LAYER, :, :PROMPT].set(prompt)
    for frame, start in enumerate(starts):
        part = rows[None, :, frame * TOKENS : (frame + 1) * TOKENS]
        stack = jax.lax.dynamic_update_slice(stack, part, (LAYER, 0, start, 0, 0))
    return stack


@pytest.mark.parametrize("frames", [1, 2])
def test_the_gradient_is_that_of_attention_through_the_cache(frames):
    learnt, k_slots, v_slots, starts = operands(frames)

    def slots_of(x):
        return (
            filled(k_slots, x["k"], x["prompt_k"], starts),
            filled(v_slots, x["v"], x["prompt_v"], starts),
        )

    def plain(x):
        out = attention(x["q"], *slots_of(x), x["bias"], layer=LAYER)
        return jnp.sin(out).sum()

    def ours(x):
        written = Written(x["k"], x["v"], starts, x["prompt_k"], x["prompt_v"])
        slots = jax.lax.stop_gradient(slots_of(x))
        layer = jnp.int32(LAYER)
        out = attend_written(attention, x["q"], *slots, x["bias"], layer, written)
        return jnp.sin(out).sum()

    (value, found), (wanted_value, wanted) = (
        jax.jit(jax.value_and_grad(loss))(learnt) for loss in (ours, plain)
    )
    np.testing.assert_allclose(value, wanted_value, rtol=1e-6)
    for name, slope in wanted.items():
        # float32, and sums in another order.
        np.testing.assert_allclose(found[name], slope, atol=1e-5, err_msg=name)
        assert np.abs(slope).max() > 1e-3, name
