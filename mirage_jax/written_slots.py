"""Attention over the frame cache, with a gradient for what one pass put into it.

The cache is data: what earlier frames and passes left there has no slope. K and V of
the frames at hand and of the prompt have one, and lie in the cache among the rest.
Autodiff would follow them through the cache, with a slope of every key of every layer
that is copied from layer to layer. So they are operands of their own here, which
attention does not read: it reads the cache, and their slopes are cut out of those of
its one layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# (q, k_slots, v_slots, slot_bias, layer=) -> output, see `frame_attention`
Forward = Callable[..., Float[Array, "B Q K E"]]


@flax.struct.dataclass
class Written:
    """What a layer's slots hold that is learnt.

    Attributes:
      k, v: of the frames of this pass, as they lie in their ring slots.
      starts: first key of each frame's slot.
      prompt_k, prompt_v: of the prompt, in the first keys.
    """

    k: Float[Array, "B Q K E"]
    v: Float[Array, "B Q K E"]
    starts: Int[Array, " G"]
    prompt_k: Float[Array, "B P K E"]
    prompt_v: Float[Array, "B P K E"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_written(
    forward: Forward,
    q: Float[Array, "B Q K E"],
    k_slots: Float[Array, "L B M K E"],
    v_slots: Float[Array, "L B M K E"],
    slot_bias: Float[Array, "L B G K S"],
    layer: Int[Array, ""],
    written: Written,
) -> Float[Array, "B Q K E"]:
    """`forward(q, k_slots, v_slots, slot_bias, layer=layer)`.

    Args:
      forward: attention; differentiable, where a gradient is asked for.
      q, k_slots, v_slots, slot_bias, layer: its operands, of all layers.
      written: what of `layer` is learnt; the slots hold the same numbers.
    """
    del written
    return forward(q, k_slots, v_slots, slot_bias, layer=layer)


def _forward(forward: Forward, *operands: Any) -> tuple[Array, Any]:
    q, k_slots, v_slots, slot_bias, layer, written = operands

    def one(stack: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(stack, layer, 0, keepdims=False)

    saved = q, one(k_slots), one(v_slots), slot_bias, layer, written.starts
    return forward(q, k_slots, v_slots, slot_bias, layer=layer), saved


def _backward(forward: Forward, saved: Any, slope: Array) -> tuple[Any, ...]:
    q, k, v, slot_bias, layer, starts = saved

    def again(q: Array, k: Array, v: Array, slot_bias: Array) -> Array:
        bias = jax.lax.dynamic_index_in_dim(slot_bias, layer, 0, keepdims=False)
        return forward(q, k, v, bias)

    _, pull = jax.vjp(again, q, k, v, slot_bias)
    of_q, of_k, of_v, of_bias = pull(slope)
    tokens = q.shape[1] // starts.shape[0]
    prompt_tokens = k.shape[1] - (slot_bias.shape[-1] - 1) * tokens

    def of_frames(x: Array) -> Array:
        frames = [
            jax.lax.dynamic_slice_in_dim(x, start, tokens, axis=1) for start in starts
        ]
        return jnp.concatenate(frames, axis=1)

    of_written = Written(
        k=of_frames(of_k),
        v=of_frames(of_v),
        starts=None,  # type: ignore[arg-type]  # whole numbers have no slope
        prompt_k=of_k[:, :prompt_tokens],
        prompt_v=of_v[:, :prompt_tokens],
    )
    return of_q, None, None, of_bias, None, of_written


attend_written.defvjp(_forward, _backward)
