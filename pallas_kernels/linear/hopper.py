"""Calls the Hopper kernel of the dense layers, on rows and columns alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import _mosaic, device
from pallas_kernels.linear import kernel
from pallas_kernels.linear.config import Config, default_config, misfit
from pallas_kernels.linear.problem import Problem

# Stands in where the interpreter runs the kernel.
_ANY_CARD = device.Device("interpreter", _mosaic.HOPPER, 132)


def card_for(interpret: bool) -> device.Device:
    """The card that the kernel is for.

    Raises:
      NotImplementedError: it is no Hopper card, or this JAX is too old.
    """
    if not _mosaic.HAS_MOSAIC:
        raise NotImplementedError(f"jax {jax.__version__} is too old for this kernel")
    card = _ANY_CARD if interpret else device.present()
    if card is None or card.capability != _mosaic.HOPPER:
        raise NotImplementedError(f"this kernel is for Hopper cards alone, not {card}")
    return card


def dense(
    problem: Problem,
    *operands: Any,
    config: Config | None = None,
    interpret: bool = False,
) -> Float[Array, "R D"]:
    """One dense layer with its epilogue.

    Args:
      problem: its sizes, and which operands there are.
      operands: those of `kernel.linear`, in its order.
      config: how to cut the work; None takes a safe default.
      interpret: run on any device, slowly, for tests; no cluster then.

    Raises:
      ValueError: the configuration cannot do this problem.
      NotImplementedError: no Hopper card, an older JAX, or no tiles fit the sizes.
    """
    card = card_for(interpret)
    c = config or default_config(problem, card.cores)
    reason = misfit(c, problem)
    if reason is not None:
        raise ValueError(f"{c} does not fit: {reason}")
    call = _mosaic.hopper_call(
        functools.partial(kernel.linear, problem=problem, config=c),
        name=f"linear_{problem.format}",
        grid={
            "rows": problem.rows // (c.tile_m * c.share_rows),
            "outputs": problem.outputs // (c.tile_n * c.share_outputs),
        },
        cluster={
            kernel.DOWN: c.share_rows,
            kernel.ACROSS: c.share_outputs,
            kernel.PART: c.split,
        },
        warpgroups=c.warpgroups + 1,
        scratch=kernel.scratch(problem, c),
        out=jax.ShapeDtypeStruct(
            (problem.rows, problem.outputs), jnp.dtype(problem.dtype)
        ),
        interpret=interpret,
    )
    return call(*operands)
