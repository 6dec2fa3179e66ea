"""A client from its hello to its end, whatever carries its messages."""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import UInt8

from mirage_jax.errors import MirageError
from mirage_jax.live.client import Client, SourceFrame, StyledFrame
from mirage_jax.live.engine import BusyError
from mirage_jax.live.mailbox import Mailbox
from mirage_jax.live.protocol import (
    Blend,
    FromClient,
    FromServer,
    Hello,
    Prompt,
    ProtocolError,
    Record,
    Reset,
    Share,
    State,
    Statistics,
    Steps,
    Strength,
    Style,
)
from mirage_jax.live.rate import RateLimit
from mirage_jax.live.service import Service
from mirage_jax.live.shared import SharedStream, ShareError
from mirage_jax.live.sink_thread import SinkThread
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.live_writer import LiveWriter

_LOG = logging.getLogger(__name__)
_SEND_SECONDS = 10.0  # a client that takes no bytes for so long is gone
_STATISTICS_SECONDS = 1.0

Picture = TypeVar("Picture")  # a source frame as it comes


class GoneError(Exception):
    """The other side has closed."""


class Session(abc.ABC, Generic[Picture]):
    """A client's connection and its sink; `run` returns when it is over.

    Frames pass three places of depth one: before they are decoded, before the device,
    before they are encoded. Whatever is slow, the newest frame is next.

    A transport says how messages and pictures come and go.
    """

    hello_seconds = 5.0

    def __init__(self, service: Service):
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._client: Client | None = None
        self._share: SharedStream | None = None
        self._recording: SinkThread | None = None
        rate = service.settings.messages_per_second
        self._rate = RateLimit(rate, 2 * rate)
        self._source: Mailbox[Picture] = Mailbox()
        self._styled: Mailbox[StyledFrame] = Mailbox()
        self._prompt: Mailbox[Blend] = Mailbox()
        self._messages: collections.deque[FromServer] = collections.deque(maxlen=32)
        self._record: Mailbox[bool] = Mailbox()
        self._source_came, self._prompt_came = asyncio.Event(), asyncio.Event()
        self._record_came = asyncio.Event()
        self._to_send = asyncio.Event()

    # What a transport does.

    @abc.abstractmethod
    async def _next_message(self) -> FromClient:
        """The client's next message.

        Raises:
          ProtocolError: it is none.
          GoneError: there will be none.
        """

    @abc.abstractmethod
    async def _send_message(self, message: FromServer) -> None: ...

    @abc.abstractmethod
    async def _send_picture(self, frame: StyledFrame) -> None: ...

    @abc.abstractmethod
    def _read(self, picture: Picture) -> tuple[int, float, UInt8[np.ndarray, "H W 3"]]:
        """Sequence, capture time and image of a source frame; on a thread.

        Raises:
          ProtocolError: it is none.
        """

    @abc.abstractmethod
    def _take(self, message: FromClient) -> None:
        """A message that only this transport has.

        Raises:
          ProtocolError: it has none such.
        """

    @abc.abstractmethod
    async def _close(self, refused: bool) -> None: ...

    def _more(self) -> list[Callable[[], Awaitable[None]]]:
        """Further loops to run while the client is here."""
        return []

    # The sink: called from the device's thread.

    def frame(self, frame: StyledFrame) -> None:
        self._styled.put(frame)
        self._call(self._to_send.set)
        self._service.outputs.frame(self, frame)
        if share := self._share:
            share.frame(frame)
        if (recording := self._recording) and frame.styled:
            recording.frame(frame.image)

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
        refused = False
        try:
            if await self._greet():
                await self._carry()
        except ProtocolError as error:
            refused = True
            await self._refuse(str(error))
        except (ConnectionError, TimeoutError, GoneError):
            pass  # the other side is gone: nothing to say to it
        finally:
            if self._client is not None:
                self._service.engine.leave(self._client)
                _LOG.info("a client left")
            self._withdraw()
            await self._stop_recording()
            self._service.outputs.release(self)
            self._service.wire.skipped += self._lost
            await self._close(refused)

    @property
    def _lost(self) -> int:
        return self._source.dropped + self._styled.dropped

    async def _greet(self) -> bool:
        """Takes the hello and a seat; False if there is none."""
        try:
            async with asyncio.timeout(self.hello_seconds):
                hello = await self._next_message()
        except TimeoutError:
            raise ProtocolError("no hello came") from None
        if not isinstance(hello, Hello):
            raise ProtocolError("the first message must be a hello")
        if not self._service.access.token_fits(hello.token):
            raise ProtocolError(
                "the token is missing or wrong: open the address that the server "
                "printed when it started"
            )
        settings = self._service.settings
        prompt = await self._service.vector(settings.prompt)
        try:
            self._client = self._service.engine.join(self, prompt, settings.strength)
        except BusyError as error:
            await self._send(State("busy", str(error), retry=True))
            return False
        _LOG.info("a client joined")
        return True

    async def _carry(self) -> None:
        loops: list[Callable[[], Awaitable[None]]] = [
            self._receive,
            self._decode,
            self._words,
            self._recordings,
            self._send_all,
            self._count,
            *self._more(),
        ]
        tasks = [asyncio.ensure_future(loop()) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            message = await self._next_message()
            self._allow()
            self._handle(message)

    def _allow(self) -> None:
        if not self._rate.allow():
            raise ProtocolError(
                "more messages a second than "
                f"{self._service.settings.messages_per_second:g}"
            )

    def _handle(self, message: FromClient) -> None:
        if isinstance(message, Prompt):
            self._ask(Blend(message.text, message.text, 0.0))
        elif isinstance(message, Blend):
            self._ask(message)
        elif isinstance(message, Style):
            if message.name not in self._service.styles:
                raise ProtocolError("there is no style of that name")
            prompt = self._service.styles[message.name]
            self._ask(Blend(prompt, prompt, 0.0))
        elif isinstance(message, Strength):
            self._service.engine.set_strength(self._seated(), message.amount)
        elif isinstance(message, Steps):
            self._choose_steps(message.count)
        elif isinstance(message, Reset):
            self._service.engine.reset(self._seated())
        elif isinstance(message, Share):
            self._withdraw()
            try:
                if message.stream or message.key:
                    self._share = self._service.shared.share(**vars(message))
            except ShareError as error:
                self.state(self._service.engine.status, str(error), retry=False)
        elif isinstance(message, Record):
            self._record.put(message.on)
            self._record_came.set()
        elif isinstance(message, Hello):
            raise ProtocolError("hello was said before")
        else:
            self._take(message)

    def _ask(self, wish: Blend) -> None:
        limit = self._service.settings.prompt_characters
        if max(len(wish.text), len(wish.other)) > limit:
            raise ProtocolError(f"a prompt has more than {limit} characters")
        self._prompt.put(wish)
        self._prompt_came.set()

    def _choose_steps(self, count: int) -> None:
        engine, choices = self._service.engine, self._service.settings.step_choices
        if count in choices:
            engine.set_steps(self._seated(), count)
        else:
            offered = " or ".join(map(str, choices))
            detail = f"this server takes {offered} steps: see --config.most_steps"
            self.state(engine.status, detail, retry=False)

    def _offer(self, picture: Picture) -> None:
        self._source.put(picture)
        self._source_came.set()

    def _withdraw(self) -> None:
        share, self._share = self._share, None
        if share is not None:
            self._service.shared.withdraw(share)

    async def _recordings(self) -> None:
        """Begins and ends recordings, as the client says and the settings allow."""
        settings, engine = self._service.settings, self._service.engine
        limit = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self._record_came.wait()
            self._record_came.clear()
            on = self._record.take()  # None where the time is over
            was_on = self._recording is not None
            await self._stop_recording()
            limit, detail = None, "the recording ended" if was_on else ""
            if on and not settings.recordings:
                detail = "this server records nothing: see --config.recordings"
            elif on:
                name = time.strftime(f"mirage-%Y%m%d-%H%M%S-{secrets.token_hex(2)}.mp4")
                path = Path(settings.recordings, name)
                size = engine.height, engine.width
                self._recording = SinkThread(
                    "recording", partial(LiveWriter.to_file, str(path), *size)
                )
                limit, detail = settings.recording_seconds, "the server is recording"
            if detail:
                self.state(engine.status, detail, retry=False)

    async def _stop_recording(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            await self._loop.run_in_executor(None, recording.close)

    async def _decode(self) -> None:
        engine, settings = self._service.engine, self._service.settings

        def read(picture: Picture) -> SourceFrame:
            sequence, captured, image = self._read(picture)
            fitted = fit_frame(image, engine.height, engine.width, settings.fit)
            return SourceFrame(sequence, captured, fitted)

        while True:
            await self._source_came.wait()
            self._source_came.clear()
            while picture := self._source.take():
                frame = await self._loop.run_in_executor(
                    self._service.pictures, read, picture
                )
                engine.offer(self._seated(), frame)

    async def _words(self) -> None:
        engine = self._service.engine
        while True:
            await self._prompt_came.wait()
            self._prompt_came.clear()
            wish = self._prompt.take()
            if wish is None:
                continue
            try:
                vector = await self._service.blend(wish)
            except MirageError as error:
                self.state(engine.status, str(error), retry=False)
                continue
            engine.set_prompt(self._seated(), vector)

    async def _send_all(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._messages:
                message = self._messages.popleft()
                await self._send(message)
                if isinstance(message, State) and message.state == "ended":
                    return
            if frame := self._styled.take():
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._send_picture(frame)

    async def _count(self) -> None:
        engine = self._service.engine
        while True:
            await asyncio.sleep(_STATISTICS_SECONDS)
            numbers = engine.statistics(self._seated())
            self._say(
                Statistics(
                    fps=numbers.fps,
                    received=numbers.received + self._source.dropped,
                    styled=numbers.styled,
                    dropped=numbers.dropped + self._lost,
                    reanchored=numbers.reanchored,
                    device_ms=1000 * engine.governor.step_seconds,
                    clients=engine.clients,
                    seats=engine.seats,
                    steps=engine.steps,
                )
            )

    def _say(self, message: FromServer) -> None:
        self._messages.append(message)
        self._to_send.set()

    async def _send(self, message: FromServer) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            await self._send_message(message)

    async def _refuse(self, reason: str) -> None:
        self._service.wire.refused += 1
        _LOG.info("a client was refused: %s", reason)
        with contextlib.suppress(ConnectionError, TimeoutError, GoneError):
            await self._send(State("refused", reason))

    def _seated(self) -> Client:
        assert self._client is not None
        return self._client
