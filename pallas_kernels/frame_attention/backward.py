"""The gradient of frame attention by Pallas-Triton; the kernels: `backward_kernel`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels._compat import triton_call
from pallas_kernels.frame_attention import backward_kernel
from pallas_kernels.frame_attention.config import Blocks, padded
from pallas_kernels.frame_attention.problem import Problem


@dataclasses.dataclass(frozen=True)
class Backward:
    """The kernels for one problem and configuration: no choice and no check.

    Attributes:
      problem: of the operands, without layers.
      keys, queries: how the two kernels' work is cut.
      interpret: run as plain JAX operations, on any device.
    """

    problem: Problem
    keys: Blocks
    queries: Blocks
    interpret: bool = False

    def __call__(
        self,
        q: Float[Array, "B Q K E"],
        k: Float[Array, "B M K E"],
        v: Float[Array, "B M K E"],
        slot_bias: Float[Array, "B G K S"],
        out: Float[Array, "B Q K E"],
        lse: Float[Array, "B K Q"],
        slope: Float[Array, "B Q K E"],
    ) -> tuple[Array, Array, Array, Array]:
        """Slopes of q, k, v and slot_bias, of their types.

        Args:
          out: what attention gave.
          lse: base-2 logarithm of each query's sum of weights.
          slope: of `out`.
        """
        p = self.problem
        bias = slot_bias.astype(jnp.float32)
        slope = slope.astype(q.dtype)
        both = out.astype(jnp.float32) * slope.astype(jnp.float32)
        delta = jnp.sum(both, axis=-1).transpose(0, 2, 1)
        operands = bias, q, k, v, slope, lse, delta
        per_slot = pl.cdiv(p.keys, self.keys.keys)
        blocks = pl.cdiv(p.prompt, self.keys.keys) + p.frames * per_slot
        parts = p.groups * pl.cdiv(p.queries, self.keys.queries)
        dk, dv, dbias = self._call(
            backward_kernel.keys_and_values,
            "frame_attention_keys_and_values",
            self.keys,
            blocks,
            (
                jax.ShapeDtypeStruct(k.shape, k.dtype),
                jax.ShapeDtypeStruct(v.shape, v.dtype),
                jax.ShapeDtypeStruct((p.batch, p.heads, blocks, parts), jnp.float32),
            ),
        )(*operands)
        dq = self._call(
            backward_kernel.queries,
            "frame_attention_queries",
            self.queries,
            p.groups * pl.cdiv(p.queries, self.queries.queries),
            jax.ShapeDtypeStruct(q.shape, q.dtype),
        )(*operands)
        # What is hidden was not written.
        dbias = dbias.reshape(p.batch, p.heads, blocks, p.groups, -1).sum(-1)
        of_prompt, frames = jnp.split(dbias, [blocks - p.frames * per_slot], axis=2)
        frames = frames.reshape(p.batch, p.heads, p.frames, per_slot, p.groups).sum(3)
        dbias = jnp.concatenate([of_prompt.sum(2, keepdims=True), frames], axis=2)
        dbias = jnp.where(bias > -jnp.inf, dbias.transpose(0, 3, 1, 2), 0.0)
        return dq, dk, dv, dbias.astype(slot_bias.dtype)

    def _call(
        self,
        kernel: Callable[..., None],
        name: str,
        blocks: Blocks,
        programs: int,
        out_shape: Any,
    ) -> Callable[..., Any]:
        """A kernel on `programs` blocks of each head of each stream.

        Programs index by themselves, see `triton.Forward`.
        """
        p, width = self.problem, padded(self.problem.width)
        count = p.groups * p.queries + blocks.queries
        index = lambda i, h, b: (b, 0, h, 0)  # noqa: E731
        bias = pl.BlockSpec((None, padded(p.groups), None, padded(p.frames + 1)), index)
        of_queries = pl.BlockSpec((None, count, None, width), index)
        of_keys = pl.BlockSpec((None, p.total_keys + blocks.keys, None, width), index)
        sums = pl.BlockSpec((None, None, count), lambda i, h, b: (b, h, 0))
        if kernel is backward_kernel.queries:
            out_specs: Any = of_queries
        else:
            parts = pl.BlockSpec(
                (None, None, None, out_shape[2].shape[3]),
                lambda i, h, b: (b, h, i, 0),
            )
            out_specs = (of_keys, of_keys, parts)
        return triton_call(
            functools.partial(
                kernel, problem=p, blocks=blocks, interpret=self.interpret
            ),
            name=name,
            num_warps=blocks.num_warps,
            num_stages=blocks.num_stages,
            interpret=self.interpret,
            grid=(programs, p.heads, p.batch),
            in_specs=[bias, of_queries, of_keys, of_keys, of_queries, sums, sums],
            out_shape=out_shape,
            out_specs=out_specs,
        )
