"""Frame attention by Pallas-Mosaic, for Hopper; see `mosaic_kernel`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels import choice, device
from pallas_kernels._mosaic import HAS_MOSAIC, HOPPER, hopper_call, plgpu, swizzled
from pallas_kernels.frame_attention import gradient, mosaic_kernel
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.mosaic_config import (
    ROWS,
    MosaicConfig,
    default_config,
    unsuited,
)
from pallas_kernels.frame_attention.problem import Problem, problem_of


def _scratch(problem: Problem, config: MosaicConfig) -> dict[str, dict[str, Any]]:
    """Tiles and barriers of a block."""
    p, c, dtype = problem, config, jnp.dtype(problem.dtype)

    def tile(*shape: int, dtype: Any = dtype) -> Any:
        size = jnp.dtype(dtype).itemsize
        return plgpu.SMEM(shape, dtype, transforms=swizzled(shape[-1] * size, size))

    tiles = {
        "q": tile(c.warpgroups, ROWS, p.width),
        "k": tile(c.num_stages, c.block_k, p.width),
        "v": tile(c.num_stages, c.block_k, p.width),
    }
    full = functools.partial(plgpu.Barrier, num_barriers=c.num_stages)
    barriers = {
        "q_arrived": plgpu.Barrier(num_barriers=c.warpgroups),
        "k_arrived": full(),
        "v_arrived": full(),
        "k_consumed": full(num_arrivals=c.warpgroups),
        "v_consumed": full(num_arrivals=c.warpgroups),
        "turn": plgpu.Barrier(num_arrivals=c.warpgroups),
    }
    if c.split > 1:
        piece = p.width // c.pieces
        tiles |= {
            "sums": plgpu.SMEM((c.warpgroups, ROWS), jnp.float32),
            "pieces": tile(c.pieces, c.warpgroups, ROWS, piece),
            "out": tile(c.turns, c.warpgroups, ROWS, piece),
        }
        meeting = plgpu.ClusterBarrier(
            collective_axes=("share",), num_arrivals=1, num_barriers=c.warpgroups
        )
        barriers |= {"published": meeting, "gathered": meeting}
    return {"tiles": tiles, "barriers": barriers}


@dataclasses.dataclass(frozen=True)
class Forward:
    """The kernel for one problem and configuration: no choice and no check."""

    problem: Problem
    config: MosaicConfig

    def __call__(
        self,
        q: Float[Array, "B Q K E"],
        k: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
        v: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
        slot_bias: Float[Array, "B G K S"] | Float[Array, "L B G K S"],
        layer: Int[Array, "1"],
    ) -> Float[Array, "B Q K E"]:
        p, c = self.problem, self.config
        if not p.layers:
            slot_bias, layer = slot_bias[None], jnp.zeros_like(layer)
        # Rows of memory as they lie: TMA copies have few axes, and these suffice.
        flat = (-1, p.heads * p.width)
        blocks = p.groups * p.queries // (c.warpgroups * ROWS)
        call = hopper_call(
            functools.partial(mosaic_kernel.attend, problem=p, config=c),
            name="frame_attention",
            grid={"stream": p.batch, "head": p.heads, "block": blocks},
            cluster={"share": c.split},
            warpgroups=c.warpgroups + 1,
            scratch=_scratch(p, c),
            out=jax.ShapeDtypeStruct((q.size // flat[1], flat[1]), q.dtype),
            interpret=False,
        )
        operands = (x.reshape(flat) for x in (q, k, v))
        return call(layer, slot_bias.astype(jnp.float32), *operands).reshape(q.shape)


def attend(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    v: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    slot_bias: Float[Array, "B G K S"] | Float[Array, "L B G K S"],
    *,
    prompt_tokens: int,
    layer: Int[Array, ""] | int | None = None,
    config: MosaicConfig | None = None,
) -> Float[Array, "B Q K E"]:
    """See `api.frame_attention`.

    16-bit operands, float32 products and softmax.

    Args:
      config: how to cut the work; None takes the measured one, or a safe default.

    Raises:
      NotImplementedError: no Hopper GPU, a JAX before 0.11, or sizes and types that
        `mosaic_config.unsuited` names.
    """
    problem = problem_of(q, k, v, slot_bias, prompt_tokens)
    if not q.dtype == k.dtype == v.dtype:
        raise NotImplementedError(f"mixed types: {q.dtype=}, {k.dtype=}, {v.dtype=}")
    if (reason := unsuited(problem)) is not None:
        raise NotImplementedError(f"not for the Mosaic kernel: {reason}")
    card = device.present()
    if not HAS_MOSAIC or card is None or card.capability != HOPPER:
        raise NotImplementedError(
            f"the Mosaic kernel needs a Hopper GPU and jax 0.11, not {card} and "
            f"{jax.__version__}"
        )
    if config is None:
        tuned = choice.tuned_config(OP, problem, card, "mosaic")
        config = tuned or default_config(problem, card)
    forward = Forward(problem, config)
    index = jnp.asarray(0 if layer is None else layer, jnp.int32).reshape(1)
    return gradient.attend(forward, problem, q, k, v, slot_bias, index)
