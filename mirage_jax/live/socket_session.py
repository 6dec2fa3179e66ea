"""A session over a WebSocket: pictures come and go as JPEG."""

from __future__ import annotations

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from jaxtyping import UInt8

from mirage_jax.live.client import StyledFrame
from mirage_jax.live.pictures import decode_picture, encode_picture
from mirage_jax.live.protocol import (
    FreePicture,
    FromClient,
    FromServer,
    ProtocolError,
    SourcePicture,
    StyledPicture,
    decode_from_client,
    encode,
)
from mirage_jax.live.service import Service
from mirage_jax.live.session import GoneError, Session

_GONE = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class SocketSession(Session[SourcePicture]):
    """See `Session`."""

    def __init__(self, socket: web.WebSocketResponse, service: Service):
        super().__init__(service)
        self._socket = socket

    async def _next_message(self) -> FromClient:
        message = await self._socket.receive()
        if message.type in _GONE:
            raise GoneError
        if message.type is not WSMsgType.BINARY:
            first = self._client is None
            raise ProtocolError(
                "the first message must be a hello"
                if first
                else "only binary messages are taken"
            )
        return decode_from_client(message.data)

    async def _send_message(self, message: FromServer) -> None:
        await self._socket.send_bytes(encode(message))

    async def _send_picture(self, frame: StyledFrame) -> None:
        quality = self._service.settings.jpeg_quality
        data = await self._loop.run_in_executor(
            self._service.pictures, encode_picture, frame.image, quality
        )
        message: FromServer
        if frame.free:
            message = FreePicture(frame.sequence, data)
        else:
            message = StyledPicture(frame.sequence, frame.captured, frame.styled, data)
        await self._send_message(message)

    def _take(self, message: FromClient) -> None:
        assert isinstance(message, SourcePicture)
        self._offer(message)

    def _read(
        self, picture: SourcePicture
    ) -> tuple[int, float, UInt8[np.ndarray, "H W 3"]]:
        image = decode_picture(picture.data, self._service.settings.frame_pixels)
        return picture.sequence, picture.captured, image

    async def _close(self, refused: bool) -> None:
        code = WSCloseCode.POLICY_VIOLATION if refused else WSCloseCode.OK
        await self._socket.close(code=code)
