"""Several live servers, one a GPU, on Ray Serve, and a door that leads to them.

Each replica is the server of `run.py` with an address of its own; Ray Serve gives it a
device, starts it again and ends it. The door sends a browser on to a replica with room.
From then on page and stream talk to that replica alone: the stream stays where its
memory is, and token, TLS, Host and Origin are checked as for a single server.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import signal
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import jax

import mirage_jax
from mirage_jax.errors import MirageError
from mirage_jax.live.access import Access
from mirage_jax.live.certificate import tls_context
from mirage_jax.live.device import SeatedStreams
from mirage_jax.live.door import Door, Room
from mirage_jax.live.engine import Engine
from mirage_jax.live.log import log_to_stderr
from mirage_jax.live.run import (
    certificate_files,
    listed_names,
    page_url,
    with_fragment,
    with_token,
)
from mirage_jax.live.server import LiveServer
from mirage_jax.live.settings import LiveSettings
from mirage_jax.program_cache import keep_programs
from mirage_jax.text import encode_text
from mirage_jax.weights import load_model

_PORTS = 64  # that a replica tries, from the one behind the door's on
_WORD_SECONDS = 1.0  # between what a replica tells the door
_DOOR, _STREAMS = "mirage-door", "mirage-streams"


class LiveReplica:
    """A live server in a Ray actor.

    Args:
      settings: of all replicas; the port is the door's.

    Raises:
      MirageError: no port is free, or the model cannot be loaded.
    """

    _telling: asyncio.Task[None] | None = None

    async def __init__(self, settings: LiveSettings):  # type: ignore[misc]
        log_to_stderr(settings.log)
        keep_programs()
        self._stop = asyncio.Event()
        model = load_model(settings.model)
        platform = jax.local_devices()[0].platform
        names = listed_names(settings)
        files = certificate_files(settings, names)
        secure = tls_context(*files) if files else None
        for port in range(settings.port + 1, settings.port + 1 + _PORTS):
            own = dataclasses.replace(settings, port=port)
            device = SeatedStreams(model, own.stream(platform), own.seed)
            self._engine = Engine(device, own.limits())
            access = Access(own.token, names)
            server = LiveServer(own, self._engine, access, encode_text, secure)
            listens: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._serving = asyncio.create_task(
                server.serve(self._stop, listens.set_result)
            )
            either: list[asyncio.Future[Any]] = [listens, self._serving]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if listens.done():
                break
        else:
            await self._serving
        self._url = page_url(own, secure is not None, port)
        self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        from ray import serve

        door = serve.get_deployment_handle("Door", _DOOR)
        engine = self._engine
        while True:
            free = engine.seats - engine.clients
            # Without a door for a while, the streams that there are go on.
            with contextlib.suppress(Exception):
                await door.hear.remote(Room(self._url, engine.status == "ready", free))
            await asyncio.sleep(_WORD_SECONDS)

    async def check_health(self) -> None:
        """Asked by Ray Serve, which replaces a replica that raises."""
        for task in (self._serving, self._telling):
            if task is None or task.done():
                raise RuntimeError("the server has ended")

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Called by Ray Serve, which waits for what comes back, and by Python."""
        telling, self._telling = self._telling, None
        return None if telling is None else self._end(telling)

    async def _end(self, telling: asyncio.Task[None]) -> None:
        telling.cancel()
        self._stop.set()
        await self._serving


def run_replicas(settings: LiveSettings) -> None:
    """Serves until SIGTERM or Ctrl-C; then clients are told, as by one server.

    Raises:
      MirageError: Ray Serve is not installed, the cluster does not answer or has too
        few GPUs, or the settings are for a single server.
    """
    try:
        # Not before: Ray reads it when it is imported. Nobody else is told anything.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray import serve
    except ImportError as error:
        raise MirageError(
            "replicas need Ray Serve, which is not installed: run pip install "
            "'.[cluster]'"
        ) from error
    settings = with_token(settings)
    files = certificate_files(settings, listed_names(settings))
    _join_cluster(ray, settings)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has taken the first
            signal.signal(number, _interrupt)
        _start(serve, settings, files, _gpus_each(ray, settings))
        url = page_url(settings, files is not None, settings.port)
        print(f"replicas      {settings.replicas}")
        print(f"page          {with_fragment(url, settings)}", flush=True)
        print("stop          Ctrl-C", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _join_cluster(ray: Any, settings: LiveSettings) -> None:
    paths = [str(Path(mirage_jax.__file__).parent.parent)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    try:
        ray.init(
            address=settings.cluster,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise MirageError(
            f"no Ray cluster at --config.cluster={settings.cluster}: {reason}; start "
            "one with ray start --head, or take local for one of this machine"
        ) from error


def _gpus_each(ray: Any, settings: LiveSettings) -> int:
    """1, or 0 where the cluster has none.

    Raises:
      MirageError: there are some, but too few; or nobody could find the replicas.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if 0 < gpus < settings.replicas:
        raise MirageError(
            f"replicas {settings.replicas} for {gpus} GPU(s): each has one of its own"
        )
    if settings.loopback and len(ray.nodes()) > 1:
        raise MirageError(
            f"host {settings.host} is another machine on every machine of a cluster: "
            "give --config.host=0.0.0.0"
        )
    return min(gpus, 1)


def _start(
    serve: Any,
    settings: LiveSettings,
    files: tuple[str | Path, str | Path] | None,
    gpus: int,
) -> None:
    http: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "location": "HeadOnly",
    }
    if files:
        http |= {"ssl_certfile": str(files[0]), "ssl_keyfile": str(files[1])}
    door = serve.deployment(Door).options(ray_actor_options={"num_cpus": 0})
    replica = serve.deployment(LiveReplica).options(
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        max_constructor_retry_count=1,
    )
    try:
        serve.start(http_options=http)
        serve.run(door.bind(), name=_DOOR, route_prefix="/")
        serve.run(replica.bind(settings), name=_STREAMS, route_prefix=None)
    except RuntimeError as error:
        raise MirageError(_reason(serve, settings, str(error))) from error


def _reason(serve: Any, settings: LiveSettings, said: str) -> str:
    """In a line, why the cluster did not start what it should."""
    if "Failed to bind" in said:
        return (
            f"cannot listen at {settings.host}:{settings.port}: choose another "
            "--config.port or --config.host"
        )
    streams = serve.status().applications.get(_STREAMS)
    for deployment in streams.deployments.values() if streams else ():
        said += f"\n{deployment.message}"
    own = re.findall(r"MirageError: (.+)", said)
    return own[-1] if own else f"the replicas did not start: {said.splitlines()[0]}"
