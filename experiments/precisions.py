"""Precisions by the names that flags give them, and by those that results have."""

from typing import Any

from mirage_jax.errors import MirageError
from mirage_jax.stream import StreamConfig

EIGHT_BIT = {"int8": "int8", "float8": "float8_e4m3fn"}
# What each one changes in `StreamConfig`.
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {},
    **{name: {"eight_bit": to} for name, to in EIGHT_BIT.items()},
}


def fields_of(precision: str) -> dict[str, Any]:
    """Fields of `StreamConfig` by the name that a flag has.

    Raises:
      MirageError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise MirageError(f"no precision {precision!r}: take one of {[*PRECISIONS]}")
    return PRECISIONS[precision]


def precision_of(stream: StreamConfig) -> str:
    """The precision as names of results have it, "float8_e4m3fn" for example."""
    return stream.eight_bit or stream.dtype
