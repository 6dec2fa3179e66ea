"""Streams that others may watch: by an id, with a key that their client chose."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator
from concurrent.futures import Executor

from mirage_jax.live.client import StyledFrame
from mirage_jax.live.mailbox import Mailbox
from mirage_jax.live.pictures import encode_picture

_ID = re.compile(r"[A-Za-z0-9_-]{4,64}")
_KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")


def is_key(text: str) -> bool:
    """Whether a stream can be shared with such a key."""
    return bool(_KEY.fullmatch(text))


class ShareError(Exception):
    """A stream cannot be shared like that; the text says why."""


class SharedStream:
    """The newest styled picture of a stream, as JPEG, for any number of viewers.

    A picture is encoded once, and only while somebody watches; a viewer that is slow
    misses pictures and holds up nobody.

    Args:
      key: that viewers must show.
      pictures: threads that encode.
      quality: of the JPEGs, 1 to 95.
    """

    def __init__(self, key: str, pictures: Executor, quality: int):
        self.viewers = 0
        self._key, self._pictures, self._quality = key.encode(), pictures, quality
        self._loop = asyncio.get_running_loop()
        self._frames: Mailbox[StyledFrame] = Mailbox()
        self._came = asyncio.Event()
        self._next: asyncio.Future[bytes] = self._loop.create_future()
        self._newest: bytes | None = None
        self._task = asyncio.create_task(self._encode())

    def key_fits(self, key: str) -> bool:
        """Compares in a time that tells nothing."""
        return hmac.compare_digest(self._key, key.encode("utf-8", "replace"))

    def frame(self, frame: StyledFrame) -> None:
        """A picture of the stream; from any thread, returns at once."""
        if not (self.viewers and frame.styled):
            return
        self._frames.put(frame)
        try:
            self._loop.call_soon_threadsafe(self._came.set)
        except RuntimeError:  # the server has ended before the engine
            pass

    async def watch(self) -> AsyncGenerator[bytes]:
        """Pictures from now on, the newest whenever the viewer is ready for one."""
        self.viewers += 1
        shown = None
        try:
            while not self._task.done():
                if self._newest is None or self._newest is shown:
                    await self._turned()
                else:
                    shown = self._newest
                    yield shown
        finally:
            self.viewers -= 1
            if not self.viewers:
                self._newest = None  # nobody is shown an old picture later

    def close(self) -> None:
        """Ends all viewers."""
        self._task.cancel()

    async def _turned(self) -> None:
        """Until there is another picture, or the stream is over."""
        until: list[asyncio.Future] = [self._next, self._task]
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)

    async def _encode(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while frame := self._frames.take():
                self._newest = await self._loop.run_in_executor(
                    self._pictures, encode_picture, frame.image, self._quality
                )
                self._next.set_result(self._newest)
                self._next = self._loop.create_future()


class SharedStreams:
    """All shared streams of a server by their ids; lives on the server's loop."""

    def __init__(self, pictures: Executor, quality: int):
        self._pictures, self._quality = pictures, quality
        self._by_id: dict[str, SharedStream] = {}

    def share(self, stream: str, key: str) -> SharedStream:
        """Opens a stream to whoever has the key.

        Args:
          stream: the id, 4 to 64 letters, digits, "-" and "_".
          key: 16 to 128 of them, chosen at random by whoever owns the stream.

        Raises:
          ShareError: these are none, or another stream has the id.
        """
        if not _ID.fullmatch(stream) or not is_key(key):
            raise ShareError(
                "a shared stream has an id of 4 to 64 and a key of 16 to 128 letters, "
                "digits, - or _"
            )
        if stream in self._by_id:
            raise ShareError("another stream is shared under this id")
        shared = SharedStream(key, self._pictures, self._quality)
        self._by_id[stream] = shared
        return shared

    def withdraw(self, shared: SharedStream) -> None:
        """Ends the viewers of a stream and forgets it."""
        shared.close()
        self._by_id = {k: s for k, s in self._by_id.items() if s is not shared}

    def find(self, stream: str, key: str) -> SharedStream | None:
        """The stream of that id if the key fits: who has no key learns nothing."""
        shared = self._by_id.get(stream)
        return shared if shared is not None and shared.key_fits(key) else None

    @property
    def viewers(self) -> int:
        return sum(shared.viewers for shared in self._by_id.values())

    def close(self) -> None:
        for shared in list(self._by_id.values()):
            self.withdraw(shared)
