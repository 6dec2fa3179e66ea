"""Which of several live servers a browser is sent to."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

_SILENCE = 5.0  # seconds after which a server that says nothing is gone
_AGAIN = 3  # seconds after which a browser asks again by itself
_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


@dataclasses.dataclass(frozen=True)
class Room:
    """What a server says of itself.

    Attributes:
      url: its address, with a slash at the end.
      ready: whether it styles frames already.
      free: seats.
    """

    url: str
    ready: bool
    free: int


class Door:
    """Knows the servers that have told it of themselves lately.

    Args:
      clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._rooms: dict[str, tuple[float, Room]] = {}

    def hear(self, room: Room) -> None:
        """The newest word of a server."""
        self._rooms[room.url] = self._clock(), room

    def rooms(self) -> list[Room]:
        """Of the servers that are there."""
        now = self._clock()
        fresh = {
            u: (at, r) for u, (at, r) in self._rooms.items() if now - at < _SILENCE
        }
        self._rooms = fresh
        return [room for _, room in fresh.values()]

    def choose(self) -> str | None:
        """The address with the most room, those that are ready first; None if none.

        The seat counts as taken until the server's next word.
        """
        free = [room for room in self.rooms() if room.free > 0]
        if not free:
            return None
        best = max(free, key=lambda room: (room.ready, room.free))
        at, _ = self._rooms[best.url]
        self._rooms[best.url] = at, dataclasses.replace(best, free=best.free - 1)
        return best.url

    async def __call__(self, request: Any) -> Any:
        """Answers a browser, for Ray Serve: `/` and `/healthz`."""
        from starlette.responses import JSONResponse, PlainTextResponse, Response

        if request.url.path == "/healthz":
            rooms = self.rooms()
            ready = [room for room in rooms if room.ready]
            health = {
                "status": "ready" if ready else "warming",
                "replicas": len(rooms),
                "ready": len(ready),
                "free": sum(room.free for room in ready),
            }
            return JSONResponse(health, 200 if ready else 503, _HEADERS)
        if request.url.path != "/":
            return PlainTextResponse("there is no such page\n", 404, _HEADERS)
        url = self.choose()
        if url is None:
            again = {"Retry-After": str(_AGAIN), "Refresh": str(_AGAIN)}
            text = "All seats are taken. This page tries again by itself.\n"
            return PlainTextResponse(text, 503, _HEADERS | again)
        query = f"?{request.url.query}" if request.url.query else ""
        # A browser keeps what is behind the #, the token, on its way.
        return Response(status_code=307, headers=_HEADERS | {"Location": url + query})
