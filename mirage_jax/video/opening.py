"""Opening a media file for reading, the same way with every PyAV."""

from __future__ import annotations

import os
from typing import Any

import av
from av.container import InputContainer

# Before 19, PyAV refuses a file with a title that is not UTF-8 unless it is told to
# be lenient; from 19 on it is, and has no such option.
_LENIENT: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def open_source(path: str | os.PathLike[str]) -> InputContainer:
    """Opens a local file; raises what `av.open` raises."""
    # "file:" keeps a name with a colon from being taken for a protocol.
    return av.open(f"file:{os.fspath(path)}", "r", **_LENIENT)
