"""The messages between a page and the server: bytes, versioned, checked.

Every message is one binary WebSocket message:

    kind (1 byte) | version (1 byte) | body

A picture's body is a fixed header and a JPEG or WebP; all others are a JSON object in
UTF-8. docs/protocol.md has the table. What does not fit is a `ProtocolError` with a
reason, whatever the bytes are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from typing import Any

VERSION = 1
STATES = ("warming", "ready", "busy", "refused", "ended")
CONTROL_BYTES = 8192  # of a message that is no picture
HEADER_BYTES = 16  # the most that comes before a picture's bytes

_HEAD = struct.Struct("!BB")
_SOURCE = struct.Struct("!Id")  # sequence, capture time
_STYLED = struct.Struct("!IdB")  # the same, and whether it is styled
_FREE = struct.Struct("!I")  # sequence


class ProtocolError(Exception):
    """A message that is not one; the text says why and repeats nothing of it."""


@dataclasses.dataclass(frozen=True)
class Hello:
    """First message of a client. `token` is "" where none is asked for."""

    token: str = ""


@dataclasses.dataclass(frozen=True)
class SourcePicture:
    """A camera's frame.

    Attributes:
      sequence: 0 to 2**32 - 1, the client's own number.
      captured: milliseconds of the client's own clock, finite.
      data: a JPEG or WebP file.
    """

    sequence: int
    captured: float
    data: bytes


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the stream should look like from now on."""

    text: str


@dataclasses.dataclass(frozen=True)
class Style:
    """The same by the name of a preset."""

    name: str


@dataclasses.dataclass(frozen=True)
class Reset:
    """The stream forgets its frames."""


@dataclasses.dataclass(frozen=True)
class Share:
    """Others may watch this stream from now on; empty fields: no longer.

    Attributes:
      stream: the id, part of the address.
      key: what viewers must show, chosen at random by the client.
    """

    stream: str
    key: str


@dataclasses.dataclass(frozen=True)
class Blend:
    """A prompt between two.

    Attributes:
      text, other: prompts.
      amount: 0 for `text` alone, 1 for `other`.
    """

    text: str
    other: str
    amount: float


@dataclasses.dataclass(frozen=True)
class Record:
    """The server writes this stream into a file from now on, or stops."""

    on: bool


@dataclasses.dataclass(frozen=True)
class Strength:
    """How much of the style, of this prompt and of all that come.

    Attributes:
      amount: 0 to 1.
    """

    amount: float


@dataclasses.dataclass(frozen=True)
class Steps:
    """Frames take so many denoiser passes at least, where the server offers them."""

    count: int


@dataclasses.dataclass(frozen=True)
class State:
    """What the server does with this client.

    Attributes:
      state: one of STATES.
      detail: in words, for people.
      retry: whether to connect again later, after "busy" and "ended".
      height, width: of the pictures in pixels; 0 where not known.
    """

    state: str
    detail: str = ""
    retry: bool = False
    height: int = 0
    width: int = 0


@dataclasses.dataclass(frozen=True)
class StyledPicture:
    """What became of the source picture of that number.

    Attributes:
      sequence, captured: the source picture's.
      styled: False while the server warms up: the source itself.
      data: a JPEG file.
    """

    sequence: int
    captured: float
    styled: bool
    data: bytes


@dataclasses.dataclass(frozen=True)
class FreePicture:
    """What the stream makes without a source, while the camera is lost.

    Attributes:
      sequence: of the last source picture.
      data: a JPEG file.
    """

    sequence: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Counts of this client, every second.

    Attributes:
      fps: styled frames a second, those without a source too, which `styled` has not.
      received, styled, dropped, reanchored: since it joined.
      device_ms: time of a step on the device, smoothed.
      clients, seats: on this device.
      steps: denoiser passes of the newest frame.
    """

    fps: float
    received: int
    styled: int
    dropped: int
    reanchored: int
    device_ms: float
    clients: int
    seats: int
    steps: int


FromClient = (
    Hello
    | SourcePicture
    | Prompt
    | Style
    | Reset
    | Share
    | Blend
    | Record
    | Strength
    | Steps
)
FromServer = State | StyledPicture | FreePicture | Statistics
_KINDS: dict[int, type] = {
    0x01: Hello,
    0x02: SourcePicture,
    0x03: Prompt,
    0x04: Style,
    0x05: Reset,
    0x06: Share,
    0x07: Blend,
    0x08: Record,
    0x09: Strength,
    0x0A: Steps,
    0x11: State,
    0x12: StyledPicture,
    0x13: Statistics,
    0x14: FreePicture,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_SERVERS = 0x10  # kinds from here on are sent by the server


def encode(message: FromClient | FromServer) -> bytes:
    """The bytes of a message."""
    head = _HEAD.pack(_NUMBERS[type(message)], VERSION)
    if isinstance(message, SourcePicture):
        body = _SOURCE.pack(message.sequence, message.captured) + message.data
    elif isinstance(message, StyledPicture):
        body = _STYLED.pack(message.sequence, message.captured, message.styled)
        body += message.data
    elif isinstance(message, FreePicture):
        body = _FREE.pack(message.sequence) + message.data
    else:
        body = json.dumps(dataclasses.asdict(message), allow_nan=False).encode()
    return head + body


def decode_from_client(data: bytes) -> FromClient:
    """Reads a client's message.

    Raises:
      ProtocolError: it is none.
    """
    return _decode(data, from_server=False)


def decode_from_server(data: bytes) -> FromServer:
    """Reads a server's message.

    Raises:
      ProtocolError: it is none.
    """
    return _decode(data, from_server=True)


def _decode(data: bytes, from_server: bool) -> Any:
    if len(data) < _HEAD.size:
        raise ProtocolError("the message is too short")
    number, version = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ProtocolError(
            f"version {version} of the protocol is unknown, this is {VERSION}: "
            "load the page again"
        )
    kind = _KINDS.get(number)
    if kind is None or (number >= _SERVERS) is not from_server:
        raise ProtocolError(f"message kind {number} is unknown")
    body = data[_HEAD.size :]
    if kind is SourcePicture:
        return SourcePicture(*_picture(_SOURCE, body))
    if kind is StyledPicture:
        sequence, captured, styled, picture = _picture(_STYLED, body)
        return StyledPicture(sequence, captured, bool(styled), picture)
    if kind is FreePicture:
        return FreePicture(*_picture(_FREE, body))
    return _record(kind, body)


def _picture(header: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) <= header.size:
        raise ProtocolError("a picture is missing")
    fields = header.unpack_from(body)
    if not all(map(math.isfinite, fields)):
        raise ProtocolError("the capture time is not a finite number")
    return (*fields, body[header.size :])


def _record(kind: type, body: bytes) -> Any:
    """A dataclass of plain fields from a JSON object that has exactly those."""
    if len(body) > CONTROL_BYTES:
        raise ProtocolError(f"the message has more than {CONTROL_BYTES} bytes")
    try:
        values = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise ProtocolError("the message is not JSON") from None
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if not isinstance(values, dict) or set(values) != set(fields):
        raise ProtocolError(f"the message needs exactly: {', '.join(fields) or 'none'}")
    for name, type_name in fields.items():
        values[name] = _checked(name, values[name], str(type_name))
    if kind is State and values["state"] not in STATES:
        raise ProtocolError("the state is unknown")
    if kind in (Blend, Strength) and not 0 <= values["amount"] <= 1:
        raise ProtocolError("amount must be from 0 to 1")
    return kind(**values)


def _checked(name: str, value: Any, type_name: str) -> Any:
    if type_name == "float" and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value).__name__ != type_name:
        raise ProtocolError(f"{name} must be of type {type_name}")
    if type_name == "float" and not math.isfinite(value):
        raise ProtocolError(f"{name} is not a finite number")
    return value
