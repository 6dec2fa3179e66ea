"""The gradient of the Mosaic kernel, which has no backward pass of its own.

It computes attention again by Triton, or by XLA where Triton cannot, and pulls back
through that. So a training step pays one forward pass more than by naming "triton"
itself, which is therefore the better choice there.
"""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels.frame_attention import triton, xla
from pallas_kernels.frame_attention.problem import Problem

# (q, k, v, slot_bias, layer) -> output
Forward = Callable[..., Float[Array, "B Q K E"]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(
    forward: Forward,
    problem: Problem,
    q: Float[Array, "B Q K E"],
    k: Array,
    v: Array,
    slot_bias: Array,
    layer: Int[Array, "1"],
) -> Float[Array, "B Q K E"]:
    """forward(q, k, v, slot_bias, layer), differentiable.

    Args:
      forward: a kernel; it must be hashable and equal to itself when made anew.
    """
    return forward(q, k, v, slot_bias, layer)


def _forward(forward, problem, *operands):
    return attend(forward, problem, *operands), operands


def _backward(forward, problem, saved, cotangent):
    q, k, v, slot_bias, layer = saved

    def again(q, k, v, slot_bias):
        if problem.layers:
            k, v, slot_bias = (
                jax.lax.dynamic_index_in_dim(x, layer[0], 0, False)
                for x in (k, v, slot_bias)
            )
        try:
            return triton.attend(q, k, v, slot_bias, prompt_tokens=problem.prompt)
        except NotImplementedError:
            return xla.attend(q, k, v, slot_bias, prompt_tokens=problem.prompt)

    _, pull = jax.vjp(again, q, k, v, slot_bias)
    return *pull(cotangent), None


attend.defvjp(_forward, _backward)
