"""Rows of numbers as 8 bits and a scale each."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Largest number that each format holds; the scale maps a row's largest onto it.
LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
LEAST_SCALE = 1e-12  # of a row of zeros: any scale gives zeros, but not 0 / 0


class Quantised(NamedTuple):
    """values * scale is what was quantised.

    Attributes:
      values: int8, or float8_e4m3fn.
      scale: float32, one number a row.
    """

    values: Num[Array, "*rows D"]
    scale: Float[Array, "*rows"]


def check_format(to: str | None) -> None:
    """Raises ValueError for a name that is no format; None is 16 bits or more."""
    if to is not None and to not in LARGEST:
        raise ValueError(f"{to=} must be None or one of {tuple(LARGEST)}")


def row_scale(y: Float[Array, "*rows D"], to: str) -> Float[Array, "*rows"]:
    """Scale of each row, float32."""
    return jnp.maximum(jnp.max(jnp.abs(y), axis=-1) / LARGEST[to], LEAST_SCALE)


def to_format(x: Float[Array, "*n"], to: str) -> Num[Array, "*n"]:
    """Scaled numbers to the nearest of the format; halves go up in int8."""
    # Triton has no round().
    return (jnp.floor(x + 0.5) if to == "int8" else x).astype(jnp.dtype(to))


def quantise_rows(y: Float[Array, "*rows D"], to: str) -> Quantised:
    """float32 rows to `to`, symmetric, per row."""
    scale = row_scale(y, to)
    return Quantised(to_format(y / scale[..., None], to), scale)
