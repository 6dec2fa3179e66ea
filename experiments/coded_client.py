"""A live client whose pictures carry its number, so that a mix-up would show."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket as sockets
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mirage_jax.errors import MirageError
from mirage_jax.live.pictures import decode_picture, encode_picture
from mirage_jax.live.protocol import (
    Hello,
    SourcePicture,
    State,
    StyledPicture,
    decode_from_server,
    encode,
)

SIDE = 64
# Which quarters of a picture are bright: any two codes differ in two of them.
CODES = np.array([[b >> 2, b >> 1, b, b ^ b >> 1 ^ b >> 2] for b in range(8)]) & 1
_AGAIN = 2.0  # seconds until a frame counts as skipped


def coded_picture(number: int) -> UInt8[np.ndarray, "64 64 3"]:
    """Its quarters are bright or dark as the code of this client says."""
    quarters = CODES[number % len(CODES)].reshape(2, 2)
    grey = np.where(quarters, 220, 40).astype(np.uint8)
    return np.kron(grey[..., None], np.ones((SIDE // 2, SIDE // 2, 3), np.uint8))


def code_of(image: UInt8[np.ndarray, "H W 3"]) -> int:
    """The code that is nearest to the brightness of the quarters."""
    small = Image.fromarray(image).convert("L").resize((2, 2), Image.Resampling.BOX)
    quarters = np.asarray(small, float).ravel() / 255
    distances = np.square(quarters - np.where(CODES, 220, 40) / 255).sum(1)
    return int(distances.argmin())


class CodedClient:
    """Shows its own picture and looks at what comes back.

    Attributes:
      number: of the client.
      styled: pictures that came back.
      foreign: those with the number or the code of another client.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, number: int):
        self.number, self.styled, self.foreign = number, 0, 0
        self._socket, self._sequence = socket, 0
        self._picture = encode_picture(coded_picture(number), 90)

    async def ready(self) -> None:
        """Returns once the server styles its frames.

        Raises:
          MirageError: it closes instead.
        """
        while True:
            message = await self._receive()
            if isinstance(message, State) and message.state == "ready":
                return

    async def show(self) -> bool:
        """A picture there and back; False if it was skipped."""
        self._sequence += 1
        number = float(self.number)
        await self._socket.send_bytes(
            encode(SourcePicture(self._sequence, number, self._picture))
        )
        try:
            async with asyncio.timeout(_AGAIN):
                while True:
                    message = await self._receive()
                    if isinstance(message, StyledPicture) and message.styled:
                        break
        except TimeoutError:
            return False
        self.styled += 1
        self.foreign += message.captured != number or not self._own(message.data)
        return True

    def _own(self, data: bytes) -> bool:
        return code_of(decode_picture(data, 1 << 26)) == self.number % len(CODES)

    async def show_for(self, seconds: float, rate: float) -> None:
        """Pictures until the time is over, at most so many a second."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (begin := loop.time()) < end:
            await self.show()
            await asyncio.sleep(max(0.0, begin + 1 / rate - loop.time()))

    def vanish(self) -> None:
        """Ends the connection as a cut cable would: without a word."""
        connection = self._socket.get_extra_info("socket")
        if connection is not None:
            connection.shutdown(sockets.SHUT_RDWR)

    async def _receive(self) -> object:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise MirageError(f"the server closed a client: {message.type.name}")
        decoded = decode_from_server(message.data)
        if isinstance(decoded, State) and decoded.state in ("busy", "ended", "refused"):
            raise MirageError(f"the server closed a client: {decoded.detail}")
        return decoded


@contextlib.asynccontextmanager
async def coded_client(
    http: aiohttp.ClientSession, url: str, token: str, number: int
) -> AsyncIterator[CodedClient]:
    """A client that is ready, for the time of a `with`.

    Raises:
      MirageError: the server refuses it.
    """
    async with http.ws_connect(f"{url}ws") as socket:
        await socket.send_bytes(encode(Hello(token)))
        client = CodedClient(socket, number)
        await client.ready()
        yield client


def large_picture(pixels: int) -> bytes:
    """A small JPEG of more than so many pixels."""
    file = io.BytesIO()
    side = int(pixels**0.5) + 64
    Image.new("L", (side, side)).save(file, "JPEG", quality=10)
    return file.getvalue()
