"""The commit by Pallas-Triton. It has no gradient: training keeps no cache."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels import choice, device
from pallas_kernels._compat import triton_call
from pallas_kernels.blocks import padded
from pallas_kernels.qk_norm_rope_commit.kernel import commit
from pallas_kernels.qk_norm_rope_commit.problem import (
    OP,
    Config,
    default_config,
    problem_of,
)

DTYPES = ("bfloat16", "float16", "float32")
WIDEST_HEAD = 256
_K_OPERAND, _V_OPERAND, _K_RESULT, _V_RESULT = 7, 8, 1, 2


def qk_norm_rope_commit(
    qkv: Float[Array, "B Q 3 K E"],
    q_scale: Float[Array, "L E"],
    k_scale: Float[Array, "L E"],
    cos: Float[Array, "Q E/2"],
    sin: Float[Array, "Q E/2"],
    k_slots: Float[Array, "L B M K E"],
    v_slots: Float[Array, "L B M K E"],
    layer: Int[Array, ""],
    starts: Int[Array, " G"],
    *,
    config: Config | None = None,
    interpret: bool = False,
) -> tuple[
    Float[Array, "B Q K E"], Float[Array, "L B M K E"], Float[Array, "L B M K E"]
]:
    """See `api.qk_norm_rope_commit`.

    Args:
      config: how to cut the work; None takes the measured one, or a safe default.
      interpret: run on any device, slowly, for tests.

    Raises:
      NotImplementedError: no NVIDIA GPU of compute capability 8.0 or more, or operands
        that the kernel cannot take.
    """
    p = problem_of(qkv, k_slots, starts)
    if p.dtype not in DTYPES or p.width > WIDEST_HEAD:
        raise NotImplementedError(
            f"the kernel takes one of {DTYPES} and heads up to {WIDEST_HEAD}: "
            f"{qkv.dtype=}, {qkv.shape=}"
        )
    card = None if interpret else device.present()
    if not interpret and (card is None or card.capability < device.LEAST_CAPABILITY):
        raise NotImplementedError(
            f"the kernel needs an Ampere GPU or newer, not {card}"
        )
    if config is None and card is not None:
        config = choice.tuned_config(OP, p, card, "triton")
    c = config or default_config(p)
    half, count = padded(p.width // 2), p.groups * p.tokens
    # Programs index by themselves: a block is the whole axis, and as much longer as the
    # last program may reach over its end.
    rows, channels = count + c.rows, p.width // 2 + half
    whole = pl.BlockSpec((1,), lambda i, h, b: (0,))
    frames = pl.BlockSpec((p.groups,), lambda i, h, b: (0,))
    scale = pl.BlockSpec((p.layers, channels), lambda i, h, b: (0, 0))
    angle = pl.BlockSpec((rows, half), lambda i, h, b: (0, 0))
    projection = pl.BlockSpec(
        (None, rows, 3, None, channels), lambda i, h, b: (b, 0, 0, h, 0)
    )
    queries = pl.BlockSpec((None, rows, None, channels), lambda i, h, b: (b, 0, h, 0))
    slots = pl.BlockSpec(
        (p.layers, None, p.keys + c.rows, None, channels),
        lambda i, h, b: (0, b, 0, h, 0),
    )
    q_shape = (p.batch, count, p.heads, p.width)
    q, k, v = triton_call(
        functools.partial(commit, problem=p, config=c, interpret=interpret),
        name="qk_norm_rope_commit",
        num_warps=c.num_warps,
        num_stages=1,
        interpret=interpret,
        grid=(p.groups * pl.cdiv(p.tokens, c.rows), p.heads, p.batch),
        in_specs=[
            *(whole, frames, projection, scale, scale, angle, angle, slots, slots),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(q_shape, qkv.dtype),
            jax.ShapeDtypeStruct(k_slots.shape, k_slots.dtype),
            jax.ShapeDtypeStruct(v_slots.shape, v_slots.dtype),
        ],
        out_specs=[queries, slots, slots],
        input_output_aliases={_K_OPERAND: _K_RESULT, _V_OPERAND: _V_RESULT},
    )(
        jnp.asarray(layer, jnp.int32).reshape(1),
        starts.astype(jnp.int32),
        qkv,
        q_scale,
        k_scale,
        cos.astype(jnp.float32),
        sin.astype(jnp.float32),
        k_slots,
        v_slots,
    )
    return q, k, v
