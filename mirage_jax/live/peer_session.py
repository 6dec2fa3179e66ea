"""A session over WebRTC: video both ways, messages on a data channel.

Imported only where aiortc is installed.
"""

from __future__ import annotations

import asyncio
import fractions
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av.video.frame import VideoFrame
from jaxtyping import UInt8

from mirage_jax.live.client import StyledFrame
from mirage_jax.live.mailbox import Mailbox
from mirage_jax.live.protocol import (
    FromClient,
    FromServer,
    ProtocolError,
    decode_from_client,
    encode,
)
from mirage_jax.live.service import Service
from mirage_jax.live.session import GoneError, Session

_CLOCK = 90_000  # ticks a second of RTP's video
_MESSAGES = 64  # that wait to be read; more is a flood
_LAST_WORDS = 1.0  # seconds for the last messages to leave
_HELLO_SECONDS = 15.0  # ways through the network are tried first
_OVER = ("failed", "closed")


class PeerSession(Session[VideoFrame]):
    """See `Session`; `answer` comes before `run`."""

    hello_seconds = _HELLO_SECONDS

    def __init__(self, service: Service):
        super().__init__(service)
        # No servers: addresses of this machine are all it needs, and nothing of a
        # connection is told to others.
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._shown = _ShownTrack()
        self._channel: Any = None
        self._inbox: asyncio.Queue[bytes | str | None] = asyncio.Queue(_MESSAGES)
        self._number = 0
        self._frames: asyncio.Task[None] | None = None
        self._peer.on("datachannel", self._open_channel)
        self._peer.on("connectionstatechange", self._changed)

    async def answer(self, offer: str) -> str:
        """The answer (SDP) to a browser's offer of one video and a data channel.

        Raises:
          ProtocolError: it offers something else.
        """
        try:
            described = RTCSessionDescription(sdp=offer, type="offer")
            await self._peer.setRemoteDescription(described)
            [transceiver] = self._peer.getTransceivers()
            if transceiver.kind != "video" or self._peer.sctp is None:
                raise ValueError(transceiver.kind)
            self._peer.addTrack(self._shown)
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except Exception:  # parsers raise what they like on hostile text
            await self._peer.close()
            raise ProtocolError(
                "the offer is not one of a video and a data channel"
            ) from None
        # From now on, so that what comes before the hello does not pile up.
        track = transceiver.receiver.track
        self._frames = asyncio.create_task(self._take_frames(track))
        return self._peer.localDescription.sdp

    def _open_channel(self, channel: Any) -> None:
        if self._channel is None:
            self._channel = channel
            channel.on("message", self._put)
            channel.on("close", lambda: self._put(None))

    def _changed(self) -> None:
        if self._peer.connectionState in _OVER:
            self._put(None)

    def _put(self, message: bytes | str | None) -> None:
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            while not self._inbox.empty():
                self._inbox.get_nowait()
            self._inbox.put_nowait(None)

    async def _take_frames(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                raise GoneError from None
            self._allow()
            assert isinstance(frame, VideoFrame)
            self._offer(frame)

    # What `Session` asks for.

    def _more(self) -> list[Callable[[], Awaitable[None]]]:
        async def frames() -> None:
            if self._frames is not None:
                await self._frames

        return [frames]

    async def _next_message(self) -> FromClient:
        message = await self._inbox.get()
        if message is None:
            raise GoneError
        if isinstance(message, str):
            raise ProtocolError("only binary messages are taken")
        return decode_from_client(message)

    async def _send_message(self, message: FromServer) -> None:
        if self._channel is None or self._channel.readyState != "open":
            raise GoneError
        self._channel.send(encode(message))

    async def _send_picture(self, frame: StyledFrame) -> None:
        self._shown.show(frame.image)

    def _take(self, message: FromClient) -> None:
        raise ProtocolError("pictures come as video on this connection")

    def _read(
        self, picture: VideoFrame
    ) -> tuple[int, float, UInt8[np.ndarray, "H W 3"]]:
        pixels = self._service.settings.frame_pixels
        if picture.width * picture.height > pixels:
            raise ProtocolError(f"a picture has more than {pixels} pixels")
        self._number = (self._number + 1) % 2**32
        captured = 1000 * float(picture.time or 0.0)
        return self._number, captured, picture.to_ndarray(format="rgb24")

    @property
    def _lost(self) -> int:
        return super()._lost + self._shown.dropped

    async def _close(self, refused: bool) -> None:
        end = time.monotonic() + _LAST_WORDS
        while (
            self._channel is not None
            and self._channel.readyState == "open"
            and self._channel.bufferedAmount
            and time.monotonic() < end
        ):
            await asyncio.sleep(0.02)
        if self._frames is not None:
            self._frames.cancel()
            await asyncio.gather(self._frames, return_exceptions=True)
        self._shown.stop()
        await self._peer.close()


class _ShownTrack(MediaStreamTrack):
    """The styled frames as a video; a frame that nobody took in time is skipped."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._newest: Mailbox[UInt8[np.ndarray, "H W 3"]] = Mailbox()
        self._came = asyncio.Event()
        self._begin = time.monotonic()

    @property
    def dropped(self) -> int:
        return self._newest.dropped

    def show(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        self._newest.put(image)
        self._came.set()

    async def recv(self) -> VideoFrame:
        await self._came.wait()
        self._came.clear()
        image = self._newest.take()
        if self.readyState != "live" or image is None:
            raise MediaStreamError
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = round((time.monotonic() - self._begin) * _CLOCK)
        frame.time_base = fractions.Fraction(1, _CLOCK)
        return frame

    def stop(self) -> None:
        super().stop()
        self._came.set()
