"""Frame attention by Pallas-Triton: keys read in place, shared out among programs.

The kernels are in `kernel`; here they are called and given a configuration.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels import choice, device
from pallas_kernels._compat import triton_call
from pallas_kernels.frame_attention import kernel
from pallas_kernels.frame_attention.backward import Backward
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.config import (
    WIDEST_HEAD,
    Config,
    default_backward,
    default_config,
    padded,
)
from pallas_kernels.frame_attention.problem import Problem, problem_of

DTYPES = ("bfloat16", "float16", "float32")

# The name by which `jax.checkpoint` can be told to keep what attention gave.
ATTENDED = "frame_attention"


@dataclasses.dataclass(frozen=True)
class Forward:
    """The kernels for one problem and configuration: no choice and no check.

    Attributes:
      problem: of the operands.
      config: how the work is cut.
      interpret: run as plain JAX operations, on any device.
    """

    problem: Problem
    config: Config
    interpret: bool = False

    def __call__(
        self,
        q: Float[Array, "B Q K E"],
        k: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
        v: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
        slot_bias: Float[Array, "B G K S"] | Float[Array, "L B G K S"],
        layer: Int[Array, "1"],
    ) -> Float[Array, "B Q K E"]:
        """`layer` is ignored where k, v and slot_bias have no such axis."""
        found = self._run(q, k, v, slot_bias, layer, self.config.split > 1)
        if self.config.split == 1:
            return found
        parts, lse = found
        return _combine(parts, lse, q.dtype, self.problem, self.config, self.interpret)

    def with_sums(
        self, q: Array, k: Array, v: Array, slot_bias: Array, layer: Array
    ) -> tuple[Float[Array, "B Q K E"], Float[Array, "B K Q"]]:
        """The output, and the base-2 logarithm of each query's sum of weights."""
        whole = dataclasses.replace(self.config, split=1)
        call = dataclasses.replace(self, config=whole)
        return call._run(q, k, v, slot_bias, layer, True)

    def _run(
        self, q: Array, k: Array, v: Array, slot_bias: Array, layer: Array, sums: bool
    ) -> Any:
        """Output, and with `sums` the logarithms; of each share where there are."""
        p, c, interpret = self.problem, self.config, self.interpret
        if not p.layers:
            k, v, slot_bias = k[None], v[None], slot_bias[None]
            layer = jnp.zeros_like(layer)
        # Programs index by themselves, so a block is the whole axis: one block of rows
        # longer, as the last one may reach over the end, and as wide as a power of two.
        width, count = padded(p.width), p.groups * p.queries
        whole = pl.BlockSpec((1,), lambda i, j, h, b: (0,))
        bias = pl.BlockSpec(
            (k.shape[0], None, p.groups, None, p.frames + 1),
            lambda i, j, h, b: (0, b, 0, h, 0),
        )
        queries = pl.BlockSpec(
            (None, count + c.block_q, None, width), lambda i, j, h, b: (b, 0, h, 0)
        )
        slots = pl.BlockSpec(
            (k.shape[0], None, k.shape[2] + c.block_k, None, width),
            lambda i, j, h, b: (0, b, 0, h, 0),
        )
        f32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        out_shape: Any = jax.ShapeDtypeStruct(q.shape, q.dtype)
        out_specs: Any = queries
        if c.split == 1 and sums:
            out_shape = out_shape, f32((p.batch, p.heads, count))
            out_specs = (
                queries,
                pl.BlockSpec(
                    (None, None, count + c.block_q), lambda i, j, h, b: (b, h, 0)
                ),
            )
        elif sums:
            out_shape = (
                f32((c.split, *q.shape)),
                f32((c.split, p.batch, p.heads, count)),
            )
            out_specs = (
                pl.BlockSpec(
                    (None, None, count + c.block_q, None, width),
                    lambda i, j, h, b: (j, b, 0, h, 0),
                ),
                pl.BlockSpec(
                    (None, None, None, count + c.block_q),
                    lambda i, j, h, b: (j, b, h, 0),
                ),
            )
        return triton_call(
            functools.partial(kernel.attend, problem=p, config=c, interpret=interpret),
            name="frame_attention",
            num_warps=c.num_warps,
            num_stages=c.num_stages,
            interpret=interpret,
            grid=(p.groups * pl.cdiv(p.queries, c.block_q), c.split, p.heads, p.batch),
            in_specs=[whole, bias, queries, slots, slots],
            out_shape=out_shape,
            out_specs=out_specs,
        )(layer, slot_bias.astype(jnp.float32), q, k, v)


def _combine(
    parts: Float[Array, "split B Q K E"],
    lse: Float[Array, "split B K Q"],
    dtype: Any,
    problem: Problem,
    config: Config,
    interpret: bool,
) -> Float[Array, "B Q K E"]:
    """The shares' outputs as one."""
    _, batch, count, heads, _ = parts.shape
    width, rows = padded(problem.width), kernel.combined_rows(problem)
    shares = kernel.combined_shares(config)
    return triton_call(
        functools.partial(kernel.combine, problem=problem, config=config),
        name="frame_attention_combine",
        num_warps=4,
        num_stages=1,
        interpret=interpret,
        grid=(pl.cdiv(count, rows), heads, batch),
        in_specs=[
            pl.BlockSpec(
                (shares, None, count + rows, None, width),
                lambda i, h, b: (0, b, 0, h, 0),
            ),
            pl.BlockSpec(
                (shares, None, None, count + rows), lambda i, h, b: (0, b, h, 0)
            ),
        ],
        out_shape=jax.ShapeDtypeStruct(parts.shape[1:], dtype),
        out_specs=pl.BlockSpec(
            (None, count + rows, None, width), lambda i, h, b: (b, 0, h, 0)
        ),
    )(parts, lse)


def attend(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    v: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    slot_bias: Float[Array, "B G K S"] | Float[Array, "L B G K S"],
    *,
    prompt_tokens: int,
    layer: Int[Array, ""] | int | None = None,
    config: Config | None = None,
    interpret: bool = False,
) -> Float[Array, "B Q K E"]:
    """See `api.frame_attention`.

    Half-precision operands multiply with float32 accumulation, float32 operands in
    full precision; the softmax is float32.

    Args:
      config: how to cut the work; None takes the measured one, or a safe default.
      interpret: run on any device, slowly, for tests.

    Raises:
      NotImplementedError: no NVIDIA GPU of compute capability 8.0 or more, mixed or
        unknown types, or heads wider than 256.
    """
    problem = problem_of(q, k, v, slot_bias, prompt_tokens)
    if problem.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        raise NotImplementedError(
            f"the Triton kernel takes one of {DTYPES}: "
            f"{q.dtype=}, {k.dtype=}, {v.dtype=}"
        )
    if problem.width > WIDEST_HEAD:
        raise NotImplementedError(f"heads wider than {WIDEST_HEAD}: {problem.width=}")
    card = device.INTERPRETER if interpret else device.present()
    if card is None or card.capability < device.LEAST_CAPABILITY:
        raise NotImplementedError(f"the Triton kernel needs an Ampere GPU, not {card}")
    if config is None:
        tuned = choice.tuned_config(OP, problem, card, "triton")
        config = tuned or default_config(problem, card)
    alone = dataclasses.replace(problem, layers=0)
    backward = Backward(alone, *default_backward(alone, card), interpret)
    index = jnp.asarray(0 if layer is None else layer, jnp.int32).reshape(1)
    forward = Forward(problem, config, interpret)
    return _differentiable(forward, backward, q, k, v, slot_bias, index)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(
    forward: Forward,
    backward: Backward,
    q: Array,
    k: Array,
    v: Array,
    slot_bias: Array,
    layer: Array,
) -> Array:
    """forward(q, k, v, slot_bias, layer), whose gradient is `backward`."""
    return forward(q, k, v, slot_bias, layer)


def _forward(forward: Forward, backward: Backward, *operands: Array) -> Any:
    sums = forward.with_sums(*operands)
    out, lse = (checkpoint_name(x, ATTENDED) for x in sums)
    return out, (operands, out, lse)


def _backward(forward: Forward, backward: Backward, saved: Any, slope: Array) -> Any:
    (q, *slots, layer), out, lse = saved

    def read(*slots: Array) -> Any:
        if not forward.problem.layers:
            return slots
        return tuple(
            jax.lax.dynamic_index_in_dim(x, layer[0], 0, keepdims=False) for x in slots
        )

    here, pull = jax.vjp(read, *slots)
    k, v, slot_bias = here
    dq, *slopes = backward(q, k, v, slot_bias, out, lse, slope)
    return dq, *pull(tuple(slopes)), None


_differentiable.defvjp(_forward, _backward)
