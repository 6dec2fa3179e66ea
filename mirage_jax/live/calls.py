"""The route by which a browser opens a WebRTC connection, where aiortc is installed."""

from __future__ import annotations

import asyncio

from aiohttp import web

from mirage_jax.live.protocol import ProtocolError
from mirage_jax.live.service import Service
from mirage_jax.live.session import Session
from mirage_jax.live.settings import webrtc_installed

_OFFER_BYTES = 65536
_BODY_SECONDS = 10.0


class Calls:
    """Takes offers, and keeps their sessions until they are over."""

    def __init__(self, service: Service):
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        return len(self._tasks)

    def add_routes(self, app: web.Application) -> None:
        if webrtc_installed():
            app.router.add_post("/webrtc", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        """An offer in the body, SDP, is answered by one; then messages may come."""
        from mirage_jax.live.peer_session import PeerSession  # only where aiortc is

        service, access = self._service, self._service.access
        origin = request.headers.get("Origin")
        if not access.origin_fits(origin, request.host, request.secure):
            raise web.HTTPForbidden(text="this page may not connect here\n")
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not access.token_fits(shown):
            raise web.HTTPUnauthorized(
                text="a connection needs the token\n",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if service.full:
            raise web.HTTPServiceUnavailable(text="too many connections\n")
        offer = await _body(request)
        service.wire.connections += 1
        session = PeerSession(service)
        try:
            answer = await session.answer(offer)
        except ProtocolError as error:
            service.wire.connections -= 1
            service.wire.refused += 1
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        task = asyncio.create_task(self._run(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.Response(status=201, text=answer, content_type="application/sdp")

    async def _run(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._service.wire.connections -= 1

    async def close(self) -> None:
        """Ends the sessions that have not ended by themselves."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _body(request: web.Request) -> str:
    """The whole of a short body."""
    length = request.content_length
    if length is None:
        raise web.HTTPLengthRequired
    if length > _OFFER_BYTES:
        raise web.HTTPRequestEntityTooLarge(_OFFER_BYTES, length)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return (await request.content.readexactly(length)).decode(
                "utf-8", "replace"
            )
    except asyncio.IncompleteReadError:
        raise web.HTTPBadRequest(text="the offer is empty or cut off\n") from None
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
