"""Precisions by the names that settings and flags give them, and results have."""

from typing import Any

from mirage_jax.errors import MirageError
from mirage_jax.stream_config import DTYPES, StreamConfig

EIGHT_BIT = {"int8": "int8", "float8": "float8_e4m3fn"}
# "auto" is the dtype that a device is best at.
PRECISIONS = ("auto", *DTYPES, *EIGHT_BIT)


def fields_of(precision: str, platform: str = "gpu") -> dict[str, Any]:
    """Fields of `StreamConfig` by the name of a precision.

    Args:
      precision: one of `PRECISIONS`; 8 bits are those of the blocks' dense layers.
      platform: JAX's name of it. CPUs emulate bfloat16, slowly: what nobody asks for
        by name is float32 there.

    Raises:
      MirageError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise MirageError(
            f"precision {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}"
        )
    if precision in DTYPES:
        return {"dtype": precision}
    found = {"dtype": "float32" if platform == "cpu" else "bfloat16"}
    if precision in EIGHT_BIT:
        found["eight_bit"] = EIGHT_BIT[precision]
    return found


def precision_of(stream: StreamConfig) -> str:
    """The precision as names of results have it, "float8_e4m3fn" for example."""
    return stream.eight_bit or stream.dtype
