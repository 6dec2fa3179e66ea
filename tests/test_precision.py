"""One name chooses the precision, for files, live streams and experiments."""

import pytest

from mirage_jax.errors import MirageError
from mirage_jax.precision import PRECISIONS, fields_of, precision_of
from mirage_jax.stream_config import StreamConfig


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_is_a_stream(name: str, platform: str) -> None:
    stream = StreamConfig(**fields_of(name, platform))
    if name == "auto":
        assert precision_of(stream) == ("float32" if platform == "cpu" else "bfloat16")
    else:
        assert precision_of(stream).startswith(name)


@pytest.mark.parametrize("name", ["int8", "float8"])
def test_what_8_bits_leave_is_what_the_device_is_best_at(name: str) -> None:
    assert fields_of(name, "cpu")["dtype"] == "float32"
    assert fields_of(name, "gpu")["dtype"] == "bfloat16"


def test_an_unknown_precision_names_those_that_are() -> None:
    with pytest.raises(MirageError, match="'int4' is unknown.*auto.*int8"):
        fields_of("int4")
