"""Clients that a live server must refuse, each with the answer that it must give."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

import aiohttp

from experiments.coded_client import coded_picture, large_picture
from mirage_jax.live.pictures import encode_picture
from mirage_jax.live.protocol import Hello, Prompt, Reset, SourcePicture, Style, encode

_WRONG, _TOO_BIG = 1008, 1009  # codes with which a WebSocket is closed
_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One way to be refused.

    Attributes:
      answer: the code of the close, or the HTTP status where there is no WebSocket.
      messages: after a right hello, or, with `greets` off, instead of one.
      headers: of the handshake.
    """

    answer: int
    messages: Sequence[bytes | str] = ()
    greets: bool = True
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def hostile_clients(frame_bytes: int, frame_pixels: int) -> dict[str, Hostile]:
    """All of them by name, for a server of these limits."""

    def picture(data: bytes) -> bytes:
        return encode(SourcePicture(1, 0.0, data))

    good = encode_picture(coded_picture(3), 90)
    return {
        "no_hello": Hostile(_WRONG, [encode(Reset())], greets=False),
        "rubbish": Hostile(_WRONG, [b"GET / HTTP/1.1"], greets=False),
        "wrong_token": Hostile(_WRONG, [encode(Hello("guess"))], greets=False),
        "no_token": Hostile(_WRONG, [encode(Hello(""))], greets=False),
        "text": Hostile(_WRONG, ["text"]),
        "unknown_kind": Hostile(_WRONG, [b"\x7f\x01{}"]),
        "other_version": Hostile(_WRONG, [b"\x05\x02{}"]),
        "no_json": Hostile(_WRONG, [b"\x03\x01{"]),
        "no_style": Hostile(_WRONG, [encode(Style("nothing"))]),
        "long_prompt": Hostile(_WRONG, [encode(Prompt("x" * 4000))]),
        "no_picture": Hostile(_WRONG, [picture(bytes(200))]),
        "truncated_picture": Hostile(_WRONG, [picture(good[: 3 * len(good) // 4])]),
        "large_picture": Hostile(_WRONG, [picture(large_picture(frame_pixels))]),
        "large_message": Hostile(_TOO_BIG, [picture(bytes(frame_bytes + 99))]),
        "foreign_origin": Hostile(403, headers={"Origin": "http://evil.example"}),
        "foreign_host": Hostile(421, headers={"Host": "evil.example"}),
    }


async def refused_rightly(
    http: aiohttp.ClientSession, url: str, token: str, hostile: Hostile
) -> bool:
    """Whether the server gives that client its answer."""
    try:
        async with (
            asyncio.timeout(_SECONDS),
            http.ws_connect(f"{url}ws", headers=hostile.headers) as socket,
        ):
            if hostile.greets:
                await socket.send_bytes(encode(Hello(token)))
            for message in hostile.messages:
                if isinstance(message, str):
                    await socket.send_str(message)
                else:
                    await socket.send_bytes(message)
            while not socket.closed:
                await socket.receive()
            return socket.close_code == hostile.answer
    except aiohttp.WSServerHandshakeError as error:
        return error.status == hostile.answer
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
