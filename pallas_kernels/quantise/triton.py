"""The quantisation of rows by Pallas-Triton: one pass over memory. No gradient.

A program owns a row, finds its largest number and writes it in 8 bits: what XLA makes
two kernels of, and reads the row twice for, is one.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels import device
from pallas_kernels._compat import load, store, triton_call
from pallas_kernels.blocks import padded
from pallas_kernels.eight_bit import Quantised, row_scale, to_format

WIDEST = 16384  # numbers of a row that the registers of a program hold


def _kernel(
    x_ref: Any, values_ref: Any, scale_ref: Any, *, width: int, to: str
) -> None:
    """One program. Refs: x [R, D]; the values [R, D] and their scale [R]."""
    here = pl.ds(pl.program_id(0), 1)
    mask = None
    if width != padded(width):
        mask = (jnp.arange(padded(width)) < width)[None, :]
    x = load(x_ref.at[here, :], mask).astype(jnp.float32)
    scale = row_scale(x, to)
    store(values_ref.at[here, :], to_format(x / scale[:, None], to), mask)
    store(scale_ref.at[here], scale)


def quantise(
    x: Float[Array, "*rows D"], to: str, *, interpret: bool = False
) -> Quantised:
    """See `api.quantise`.

    Args:
      interpret: run on any device, slowly, for tests.

    Raises:
      NotImplementedError: no NVIDIA GPU that can, or rows that are too wide.
    """
    *lead, width = x.shape
    rows = math.prod(lead)
    if width > WIDEST:
        raise NotImplementedError(f"rows wider than {WIDEST}: {width=}")
    least = device.LEAST_CAPABILITY if to == "int8" else (8, 9)
    card = None if interpret else device.present()
    if not interpret and (card is None or card.capability < least):
        raise NotImplementedError(f"{to} needs a GPU from {least} on, not {card}")
    matrix = pl.BlockSpec((rows, padded(width)), lambda i: (0, 0))
    values, scale = triton_call(
        functools.partial(_kernel, width=width, to=to),
        name="quantise",
        # A warp for every 1024 numbers: a thread loads 32.
        num_warps=min(max(padded(width) // 1024, 1), 16),
        num_stages=1,
        interpret=interpret,
        grid=(rows,),
        in_specs=[matrix],
        out_shape=[
            jax.ShapeDtypeStruct((rows, width), jnp.dtype(to)),
            jax.ShapeDtypeStruct((rows,), jnp.float32),
        ],
        out_specs=[matrix, pl.BlockSpec((rows,), lambda i: (0,))],
    )(x.reshape(rows, width))
    return Quantised(values.reshape(x.shape), scale.reshape(lead))
