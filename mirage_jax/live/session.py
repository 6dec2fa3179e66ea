"""One WebSocket, from its hello to its end: the sink of its client."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from jaxtyping import Float

from mirage_jax.errors import MirageError
from mirage_jax.live.access import Access
from mirage_jax.live.client import Client, SourceFrame, StyledFrame
from mirage_jax.live.engine import BusyError, Engine
from mirage_jax.live.mailbox import Mailbox
from mirage_jax.live.pictures import decode_picture, encode_picture
from mirage_jax.live.protocol import (
    FromServer,
    Hello,
    Prompt,
    ProtocolError,
    Reset,
    SourcePicture,
    State,
    Statistics,
    Style,
    StyledPicture,
    decode_from_client,
    encode,
)
from mirage_jax.live.rate import RateLimit
from mirage_jax.live.settings import LiveSettings
from mirage_jax.video.frame_size import fit_frame

_LOG = logging.getLogger(__name__)
_HELLO_SECONDS = 5.0
_SEND_SECONDS = 10.0  # a client that takes no bytes for so long is gone
_STATISTICS_SECONDS = 1.0
_GONE = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)

EncodeText = Callable[[Sequence[str]], Float[np.ndarray, "n 384"]]


@dataclasses.dataclass
class WireCounters:
    """Of all WebSockets: open now, refused for a message, frames that the wire lost."""

    connections: int = 0
    refused: int = 0
    skipped: int = 0


@dataclasses.dataclass(frozen=True)
class Service:
    """What all sessions of a server share.

    Attributes:
      settings, engine, access: see there.
      styles: prompts of the presets by name.
      encode: prompts to vectors.
      pictures: threads that read and write pictures.
      words: the thread that encodes prompts.
      wire: counts.
    """

    settings: LiveSettings
    engine: Engine
    access: Access
    styles: dict[str, str]
    encode: EncodeText
    pictures: Executor
    words: Executor
    wire: WireCounters

    async def vector(self, prompt: str) -> Float[np.ndarray, " 384"]:
        """The prompt's vector, made on a thread of its own, not on the device's."""
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self.words, self.encode, [prompt]))[0]


class Session:
    """A client's connection; `run` returns when it is over.

    Frames pass three places of depth one: before they are decoded, before the device,
    before they are encoded. Whatever is slow, the newest frame is next.
    """

    def __init__(self, socket: web.WebSocketResponse, service: Service):
        self._socket, self._service = socket, service
        self._loop = asyncio.get_running_loop()
        self._client: Client | None = None
        settings = service.settings
        rate = settings.messages_per_second
        self._rate = RateLimit(rate, 2 * rate)
        self._source: Mailbox[SourcePicture] = Mailbox()
        self._styled: Mailbox[StyledFrame] = Mailbox()
        self._prompt: Mailbox[str] = Mailbox()
        self._messages: collections.deque[FromServer] = collections.deque(maxlen=32)
        self._source_came, self._prompt_came = asyncio.Event(), asyncio.Event()
        self._to_send = asyncio.Event()

    # The sink: called from the device's thread.

    def frame(self, frame: StyledFrame) -> None:
        self._styled.put(frame)
        self._call(self._to_send.set)

    def state(self, name: str, detail: str, retry: bool) -> None:
        engine = self._service.engine
        self._call(self._say, State(name, detail, retry, engine.height, engine.width))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the server has ended before the engine
            pass

    # The connection: on the server's loop.

    async def run(self) -> None:
        """Greets, then carries messages until one side has enough."""
        try:
            if await self._greet():
                await self._carry()
        except ProtocolError as error:
            await self._refuse(str(error))
        except (ConnectionError, TimeoutError):
            pass  # the other side is gone: nothing to say to it
        finally:
            if self._client is not None:
                self._service.engine.leave(self._client)
                _LOG.info("a client left")
            skipped = self._source.dropped + self._styled.dropped
            self._service.wire.skipped += skipped
            await self._socket.close()

    async def _greet(self) -> bool:
        """Takes the hello and a seat; False if there is none."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                message = await self._socket.receive()
        except TimeoutError:
            raise ProtocolError("no hello came") from None
        if message.type in _GONE:
            return False
        if message.type is not WSMsgType.BINARY:
            raise ProtocolError("the first message must be a hello")
        hello = decode_from_client(message.data)
        if not isinstance(hello, Hello):
            raise ProtocolError("the first message must be a hello")
        if not self._service.access.token_fits(hello.token):
            raise ProtocolError(
                "the token is missing or wrong: open the address that the server "
                "printed when it started"
            )
        prompt = await self._service.vector(self._service.settings.prompt)
        try:
            self._client = self._service.engine.join(self, prompt)
        except BusyError as error:
            await self._send(State("busy", str(error), retry=True))
            return False
        _LOG.info("a client joined")
        return True

    async def _carry(self) -> None:
        loops = (self._receive, self._decode, self._words, self._send_all, self._count)
        tasks = [asyncio.create_task(loop()) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY:
                raise ProtocolError("only binary messages are taken")
            if not self._rate.allow():
                raise ProtocolError(
                    "more messages a second than "
                    f"{self._service.settings.messages_per_second:g}"
                )
            self._handle(decode_from_client(message.data))

    def _handle(self, message: Any) -> None:
        if isinstance(message, SourcePicture):
            self._source.put(message)
            self._source_came.set()
        elif isinstance(message, Prompt):
            limit = self._service.settings.prompt_characters
            if len(message.text) > limit:
                raise ProtocolError(f"a prompt has more than {limit} characters")
            self._prompt.put(message.text)
            self._prompt_came.set()
        elif isinstance(message, Style):
            if message.name not in self._service.styles:
                raise ProtocolError("there is no style of that name")
            self._prompt.put(self._service.styles[message.name])
            self._prompt_came.set()
        elif isinstance(message, Reset):
            self._service.engine.reset(self._seated())
        else:
            raise ProtocolError("hello was said before")

    async def _decode(self) -> None:
        engine, settings = self._service.engine, self._service.settings

        def read(data: bytes) -> Any:
            image = decode_picture(data, settings.frame_pixels)
            return fit_frame(image, engine.height, engine.width, settings.fit)

        while True:
            await self._source_came.wait()
            self._source_came.clear()
            while picture := self._source.take():
                image = await self._loop.run_in_executor(
                    self._service.pictures, read, picture.data
                )
                frame = SourceFrame(picture.sequence, picture.captured, image)
                engine.offer(self._seated(), frame)

    async def _words(self) -> None:
        engine = self._service.engine
        while True:
            await self._prompt_came.wait()
            self._prompt_came.clear()
            text = self._prompt.take()
            if text is None:
                continue
            try:
                vector = await self._service.vector(text)
            except MirageError as error:
                self.state(engine.status, str(error), retry=False)
                continue
            engine.set_prompt(self._seated(), vector)

    async def _send_all(self) -> None:
        quality = self._service.settings.jpeg_quality
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._messages:
                message = self._messages.popleft()
                await self._send(message)
                if isinstance(message, State) and message.state == "ended":
                    return
            if frame := self._styled.take():
                data = await self._loop.run_in_executor(
                    self._service.pictures, encode_picture, frame.image, quality
                )
                await self._send(
                    StyledPicture(frame.sequence, frame.captured, frame.styled, data)
                )

    async def _count(self) -> None:
        engine = self._service.engine
        while True:
            await asyncio.sleep(_STATISTICS_SECONDS)
            numbers = engine.statistics(self._seated())
            lost = self._source.dropped + self._styled.dropped
            self._say(
                Statistics(
                    fps=numbers.fps,
                    received=numbers.received + self._source.dropped,
                    styled=numbers.styled,
                    dropped=numbers.dropped + lost,
                    reanchored=numbers.reanchored,
                    device_ms=1000 * engine.governor.step_seconds,
                    clients=engine.clients,
                    seats=engine.seats,
                )
            )

    def _say(self, message: FromServer) -> None:
        self._messages.append(message)
        self._to_send.set()

    async def _send(self, message: FromServer) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            await self._socket.send_bytes(encode(message))

    async def _refuse(self, reason: str) -> None:
        self._service.wire.refused += 1
        _LOG.info("a client was refused: %s", reason)
        try:
            await self._send(State("refused", reason))
            await self._socket.close(code=WSCloseCode.POLICY_VIOLATION)
        except (ConnectionError, TimeoutError):
            pass

    def _seated(self) -> Client:
        assert self._client is not None
        return self._client
