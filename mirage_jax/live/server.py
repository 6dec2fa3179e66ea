"""The web server: the page, its WebSocket, health and metrics.

asyncio.run(LiveServer(settings, engine, access, encode_text).serve(...))
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, web

import mirage_jax
from mirage_jax.errors import MirageError
from mirage_jax.live.access import Access, content_policy
from mirage_jax.live.calls import Calls
from mirage_jax.live.engine import Engine
from mirage_jax.live.metrics import CONTENT_TYPE, metrics_text
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.presets import presets
from mirage_jax.live.protocol import HEADER_BYTES
from mirage_jax.live.service import EncodeText, Service, WireCounters
from mirage_jax.live.settings import LiveSettings
from mirage_jax.live.shared import SharedStreams
from mirage_jax.live.socket_session import SocketSession
from mirage_jax.live.source_stream import SourceStream
from mirage_jax.live.watching import Watching

_LOG = logging.getLogger(__name__)
_PAGE = Path(__file__).parent / "page"
_SAMPLE = Path(mirage_jax.__file__).parent / "assets" / "big_buck_bunny.mp4"
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
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
      outputs: the sinks of the config; closed by `serve`.
    """

    def __init__(
        self,
        settings: LiveSettings,
        engine: Engine,
        access: Access,
        encode: EncodeText,
        secure: ssl.SSLContext | None = None,
        outputs: Outputs | None = None,
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
            outputs or Outputs(),
            SharedStreams(self._pictures, settings.jpeg_quality),
        )
        self._calls = Calls(self._service)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(self._add_headers)
        app.router.add_get("/ws", self._stream)
        Watching(self._service).add_routes(app)
        if self._settings.transport != "websocket":
            self._calls.add_routes(app)
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
        self,
        stop: asyncio.Event,
        ready: Callable[[int], None] = lambda port: None,
        source_key: str = "",
    ) -> None:
        """Listens until `stop` is set or the config's source is over, then drains.

        Args:
          stop: set by a signal.
          ready: called with the port once browsers may come.
          source_key: with which the config's source can be watched, as stream "source".

        Raises:
          MirageError: nobody can listen at that address, or the source is broken.
        """
        own: SourceStream | None = None
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
            broken: list[MirageError] = []
            if self._settings.source:
                own = await self._own_stream(source_key, stop, broken)
            await stop.wait()
            if broken:
                raise broken[0]
        finally:
            await self._drain(own)
            await runner.cleanup()
            self._pictures.shutdown(wait=False, cancel_futures=True)
            self._words.shutdown(wait=False, cancel_futures=True)

    async def _own_stream(
        self, key: str, stop: asyncio.Event, broken: list[MirageError]
    ) -> SourceStream:
        """Starts the stream of the config's source."""
        loop, service = asyncio.get_running_loop(), self._service

        def end(error: MirageError | None) -> None:
            if error is not None:
                broken.append(error)
            loop.call_soon_threadsafe(stop.set)

        own = SourceStream(
            self._settings,
            self._engine,
            service.outputs,
            service.shared.share("source", key or secrets.token_urlsafe(24)),
            await service.vector(self._settings.prompt),
            end,
        )
        own.start()
        return own

    async def _drain(self, own: SourceStream | None) -> None:
        """Lets the running step finish, ends the sinks, tells all clients."""
        loop = asyncio.get_running_loop()
        if own is not None:
            await loop.run_in_executor(None, own.close)
        await loop.run_in_executor(None, self._engine.stop, _DRAIN_SECONDS)
        await loop.run_in_executor(None, self._service.outputs.close)
        self._service.shared.close()
        for _ in range(20):
            if not self._sockets and not self._calls.open:
                return
            await asyncio.sleep(0.05)
        await self._calls.close()
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
        if self._service.full:
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
            await SocketSession(socket, self._service).run()
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
        text = metrics_text(self._service)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _list_styles(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "prompt": self._settings.prompt,
                "strength": self._settings.strength,
                "steps": self._settings.steps,
                "step_choices": self._settings.step_choices,
                "styles": self._styles,
                "transport": self._settings.offered_transport,
                "recording": bool(self._settings.recordings),
            }
        )


def _answer(body: bytes, kind: str) -> Any:
    charset = "utf-8" if kind.startswith("text/") else None

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset=charset)

    return handler
