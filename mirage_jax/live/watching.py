"""The routes of those who only watch: MJPEG, and a page that is a picture."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from aiohttp import web

from mirage_jax.live.service import Service

_BOUNDARY = "mirage-picture"
_SEND_SECONDS = 10.0  # a viewer that takes no bytes for so long is gone
_PAGE = Path(__file__).parent / "page" / "view.html"


class Watching:
    """Handlers for `LiveServer`."""

    def __init__(self, service: Service):
        self._service = service
        self._page = _PAGE.read_bytes()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/streams/{stream}.mjpeg", self._mjpeg)
        app.router.add_get("/view/{stream}", self._view)

    async def _mjpeg(self, request: web.Request) -> web.StreamResponse:
        """Pictures without end, as browsers, VLC, OBS and OpenCV read them.

        The stream's key comes as `?key=`, or as `Authorization: Bearer`.
        """
        service = self._service
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        key = request.query.get("key", shown)
        shared = service.shared.find(request.match_info["stream"], key)
        if shared is None:
            raise web.HTTPNotFound(text="no stream is shared under this id and key\n")
        if service.full:
            raise web.HTTPServiceUnavailable(text="too many connections\n")
        response = web.StreamResponse()
        response.content_type = "multipart/x-mixed-replace"
        response.headers["Content-Type"] += f"; boundary={_BOUNDARY}"
        service.wire.connections += 1
        try:
            await response.prepare(request)
            async with contextlib.aclosing(shared.watch()) as pictures:
                async for picture in pictures:
                    async with asyncio.timeout(_SEND_SECONDS):
                        await response.write(_part(picture))
        except (ConnectionError, TimeoutError):
            pass  # the viewer is gone
        finally:
            service.wire.connections -= 1
        return response

    async def _view(self, request: web.Request) -> web.Response:
        """The picture and nothing else; the key is behind the #, for its script."""
        return web.Response(body=self._page, content_type="text/html", charset="utf-8")


def _part(picture: bytes) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(picture)}\r\n\r\n"
    )
    return head.encode() + picture + b"\r\n"
