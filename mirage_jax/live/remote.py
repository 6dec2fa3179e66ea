"""A client for tools: frames to a live server, styled frames back, in a few lines.

    with RemoteStream("http://127.0.0.1:8765/") as stream:
        stream.prompt("a pencil drawing on paper")
        styled = stream.style(image)

Everything is plain calls; a thread of its own keeps the connection.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urldefrag

import aiohttp
import numpy as np
from jaxtyping import UInt8

from mirage_jax.closing import Closing
from mirage_jax.errors import MirageError
from mirage_jax.live.mailbox import Mailbox
from mirage_jax.live.pictures import decode_picture, encode_picture
from mirage_jax.live.protocol import (
    FreePicture,
    FromClient,
    FromServer,
    Hello,
    Prompt,
    Reset,
    Share,
    SourcePicture,
    State,
    Statistics,
    Steps,
    Strength,
    StyledPicture,
    decode_from_server,
    encode,
)

_QUALITY = 90  # of the JPEGs that go up
_PIXELS = 1 << 26
_AGAIN = 2.0  # seconds without an answer until a frame is sent again: it was skipped
_OVER = ("busy", "refused", "ended")


class RemoteStream(Closing):
    """A stream on a live server; calls may come from any thread.

    Args:
      address: as the server prints it, with the token behind the #.
      certificate: a PEM file to trust, for a server with a certificate of its own.
      timeout: seconds to wait for an answer. The first frames of a server that has
        just been started wait for the model to be compiled: see `wait_until_ready`.

    Attributes:
      state: the server's last word, see docs/protocol.md.
      statistics: the server's last counts; None before them.

    Raises:
      MirageError: nobody answers, the server is busy, or the token is wrong.
    """

    def __init__(self, address: str, certificate: str = "", timeout: float = 20.0):
        plain, fragment = urldefrag(address)
        self._address = plain.rstrip("/") + "/ws"
        self._token = parse_qs(fragment).get("token", [""])[0]
        self._secure = (
            ssl.create_default_context(cafile=certificate) if certificate else None
        )
        self._timeout = timeout
        self.state = State("warming")
        self.statistics: Statistics | None = None
        self._heard = False  # anything
        self._error = ""
        self._sequence = 0
        self._picture: StyledPicture | FreePicture | None = None
        self._changed = threading.Condition()
        self._newest: Mailbox[bytes] = Mailbox()
        self._loop = asyncio.new_event_loop()
        self._to_send = asyncio.Event()
        self._words: list[bytes] = []
        self._thread = threading.Thread(target=self._run, name="remote", daemon=True)
        self._thread.start()
        try:
            self._wait(lambda: self._heard, timeout)
        except BaseException:
            self.close()
            raise

    # For tools.

    def prompt(self, text: str) -> None:
        """What the stream should look like from the next frame on."""
        self._say(Prompt(text))

    def strength(self, amount: float) -> None:
        """How much of the style, 0 to 1, of this prompt and of later ones."""
        self._say(Strength(amount))

    def steps(self, count: int) -> None:
        """Denoiser passes a frame, where the server offers so many."""
        self._say(Steps(count))

    def reset(self) -> None:
        """The stream forgets its frames."""
        self._say(Reset())

    def share(self, stream: str, key: str) -> None:
        """Lets others watch: `/view/<stream>#key=<key>`, `/streams/<stream>.mjpeg`."""
        self._say(Share(stream, key))

    def wait_until_ready(self, timeout: float = 600.0) -> None:
        """Returns when frames are styled.

        Raises:
          MirageError: they are not in time.
        """
        self._wait(lambda: self.state.state == "ready", timeout)

    def offer(self, image: UInt8[np.ndarray, "H W 3"]) -> int:
        """Sends a frame, RGB of any size, and returns its number at once.

        A frame that could not be sent before the next one is skipped.
        """
        self._sequence = (self._sequence + 1) % 2**32
        data = encode_picture(image, _QUALITY)
        message = SourcePicture(self._sequence, 1000 * time.monotonic(), data)
        self._newest.put(encode(message))
        self._wake()
        return self._sequence

    def newest(self) -> tuple[int, UInt8[np.ndarray, "H W 3"]] | None:
        """The newest styled frame and the number of its source, once; None if none.

        One that the server made without a source has the number of the last one.
        """
        with self._changed:
            picture, self._picture = self._picture, None
        if picture is None:
            return None
        return picture.sequence, decode_picture(picture.data, _PIXELS)

    def style(
        self, image: UInt8[np.ndarray, "H W 3"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """One frame there and back, of the server's size.

        Raises:
          MirageError: it does not come in time, or the connection is over.
        """
        end = time.monotonic() + self._timeout
        self._wait(lambda: self.state.state == "ready", self._timeout)
        while True:
            first = self.offer(image)

            def answered(first: int = first) -> bool:
                return self._picture is not None and self._picture.sequence >= first

            left = end - time.monotonic()
            if self._wait(answered, min(_AGAIN, left), must=left <= _AGAIN):
                found = self.newest()
                if found is not None:
                    return found[1]

    def close(self) -> None:
        """Gives the seat back."""
        with self._changed:
            self._error = self._error or "it was closed"
            self._changed.notify_all()
        self._wake()
        self._thread.join(5)

    def _say(self, message: FromClient) -> None:
        with self._changed:
            self._words.append(encode(message))
        self._wake()

    def _wait(
        self, condition: Callable[[], bool], seconds: float, must: bool = True
    ) -> bool:
        """Waits for a condition; if it does not come: False, or an error if it must."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: self._error or condition(), max(0.0, seconds)
            )
            if self._error:
                raise MirageError(f"the live stream is over: {self._error}")
        if not came and must:
            raise MirageError(
                f"the live server gave no answer in {self._timeout:g} s (state "
                f"{self.state.state} {self.state.detail}): wait until it is ready"
            )
        return bool(came)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._to_send.set)
        except RuntimeError:  # the connection is over
            pass

    # The thread.

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._connect())
        except (aiohttp.ClientError, OSError) as error:
            self._end(f"no connection to the server ({error}): check that it runs")
        except Exception as error:  # whoever waits must learn that there is nobody
            self._end(repr(error))
        else:
            self._end("the server has closed")
        finally:
            self._loop.close()

    def _end(self, error: str) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    async def _connect(self) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(
                self._address, ssl=self._secure or True, max_msg_size=0
            ) as socket,
        ):
            await socket.send_bytes(encode(Hello(self._token)))
            sending = asyncio.create_task(self._send(socket))
            receiving = asyncio.create_task(self._receive(socket))
            tasks = (sending, receiving)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while not self._error:
            await self._to_send.wait()
            self._to_send.clear()
            with self._changed:
                words, self._words = self._words, []
            for word in words:
                await socket.send_bytes(word)
            if frame := self._newest.take():
                await socket.send_bytes(frame)

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self._take(decode_from_server(message.data))

    def _take(self, message: FromServer) -> None:
        with self._changed:
            self._heard = True
            if isinstance(message, State):
                self.state = message
                if message.state in _OVER:
                    self._error = f"{message.state}: {message.detail}"
            elif isinstance(message, Statistics):
                self.statistics = message
            elif isinstance(message, FreePicture) or message.styled:
                self._picture = message
            self._changed.notify_all()
