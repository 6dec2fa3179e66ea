"""The web server: the page, its WebSocket, health and metrics.

asyncio.run(LiveServer(settings, engine, access, encode_text).serve(...))
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, web

import mirage_jax
from mirage_jax.errors import MirageError
from mirage_jax.live.access import Access, content_policy
from mirage_jax.live.engine import Engine
from mirage_jax.live.metrics import CONTENT_TYPE, metrics_text
from mirage_jax.live.presets import presets
from mirage_jax.live.protocol import HEADER_BYTES
from mirage_jax.live.session import EncodeText, Service, Session, WireCounters
from mirage_jax.live.settings import LiveSettings

_LOG = logging.getLogger(__name__)
_PAGE = Path(__file__).parent / "page"
_SAMPLE = Path(mirage_jax.__file__).parent / "assets" / "big_buck_bunny.mp4"
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_STUCK_SECONDS = 60.0  # a step that takes longer is not well
_DRAIN_SECONDS = 5.0
_HEARTBEAT_SECONDS = 20.0


class LiveServer:
    """A server of one engine.

    Args:
      settings: limits, address and the first prompt.
      engine: started and stopped by `serve`.
      access: who may connect.
      encode: prompts to vectors.
      secure: TLS, or None.
    """

    def __init__(
        self,
        settings: LiveSettings,
        engine: Engine,
        access: Access,
        encode: EncodeText,
        secure: ssl.SSLContext | None = None,
    ):
        self._settings, self._engine, self._access = settings, engine, access
        self._secure = secure
        self._styles = presets()
        self._pictures = ThreadPoolExecutor(4, "pictures")
        self._words = ThreadPoolExecutor(1, "prompts")
        self._sockets: set[web.WebSocketResponse] = set()
        self._service = Service(
            settings,
            engine,
            access,
            {style["name"]: style["prompt"] for style in self._styles},
            encode,
            self._pictures,
            self._words,
            WireCounters(),
        )

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(self._add_headers)
        app.router.add_get("/ws", self._stream)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/styles.json", self._list_styles)
        app.router.add_get("/sample.mp4", _answer(_SAMPLE.read_bytes(), "video/mp4"))
        for file in sorted(_PAGE.iterdir()):
            handler = _answer(file.read_bytes(), _KINDS[file.suffix])
            name = "" if file.name == "index.html" else file.name
            app.router.add_get(f"/{name}", handler)
        return app

    async def serve(
        self, stop: asyncio.Event, ready: Callable[[int], None] = lambda port: None
    ) -> None:
        """Listens until `stop` is set, then drains.

        Args:
          stop: set by a signal.
          ready: called with the port once browsers may come.

        Raises:
          MirageError: nobody can listen at that address.
        """
        runner = web.AppRunner(
            self.app(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_DRAIN_SECONDS,
        )
        await runner.setup()
        host, port = self._settings.host, self._settings.port
        site = web.TCPSite(runner, host, port, ssl_context=self._secure)
        try:
            try:
                await site.start()
            except OSError as error:
                raise MirageError(
                    f"cannot listen at {host}:{port} ({error.strerror}): choose "
                    "another --config.port or --config.host"
                ) from error
            self._engine.start()
            # The encoder is compiled now and not when the first client waits for it.
            self._words.submit(self._service.encode, [self._settings.prompt])
            ready(runner.addresses[0][1])
            await stop.wait()
        finally:
            await self._drain()
            await runner.cleanup()
            self._pictures.shutdown(wait=False, cancel_futures=True)
            self._words.shutdown(wait=False, cancel_futures=True)

    async def _drain(self) -> None:
        """Lets the running step finish, tells all clients, closes them."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._engine.stop, _DRAIN_SECONDS)
        for _ in range(20):
            if not self._sockets:
                return
            await asyncio.sleep(0.05)
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Only those who mean this server get an answer."""
        transport = request.transport
        place = transport.get_extra_info("sockname") if transport else None
        if place is None or not self._access.host_fits(request.host, *place[:2]):
            raise web.HTTPMisdirectedRequest(
                text="this server has another name: see --config.names\n"
            )
        return await handler(request)

    async def _add_headers(
        self, request: web.Request, response: web.StreamResponse
    ) -> None:
        response.headers.update(content_policy(request.host, request.secure))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if not self._access.origin_fits(origin, request.host, request.secure):
            raise web.HTTPForbidden(text="this page may not connect here\n")
        wire = self._service.wire
        if wire.connections >= self._settings.connections:
            raise web.HTTPServiceUnavailable(text="too many connections\n")
        socket = web.WebSocketResponse(
            max_msg_size=self._settings.frame_bytes + HEADER_BYTES,
            heartbeat=_HEARTBEAT_SECONDS,
            compress=False,
        )
        wire.connections += 1
        self._sockets.add(socket)
        try:
            await socket.prepare(request)
            await Session(socket, self._service).run()
        finally:
            wire.connections -= 1
            self._sockets.discard(socket)
        return socket

    async def _health(self, request: web.Request) -> web.Response:
        """200 while frames are styled, else 503; the status in words."""
        engine = self._engine
        status = "stuck" if engine.stuck() > _STUCK_SECONDS else engine.status
        return web.json_response(
            {"status": status, "clients": engine.clients, "seats": engine.seats},
            status=200 if status == "ready" else 503,
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self._access.token_fits(shown):
            raise web.HTTPUnauthorized(
                text="metrics need the token\n", headers={"WWW-Authenticate": "Bearer"}
            )
        text = metrics_text(self._engine, self._service.wire)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _list_styles(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"prompt": self._settings.prompt, "styles": self._styles}
        )


def _answer(body: bytes, kind: str) -> Any:
    charset = "utf-8" if kind.startswith("text/") else None

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset=charset)

    return handler
