"""From settings to a running server: what main.py calls."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import os
import secrets
import signal
import socket
import sys
import webbrowser
from pathlib import Path

import jax

from mirage_jax.errors import MirageError
from mirage_jax.live.access import Access
from mirage_jax.live.certificate import (
    fingerprint,
    own_certificate,
    state_folder,
    tls_context,
)
from mirage_jax.live.device import SeatedStreams
from mirage_jax.live.engine import Engine
from mirage_jax.live.log import log_to_stderr
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.server import LiveServer
from mirage_jax.live.settings import LiveSettings
from mirage_jax.live.sink_thread import SinkThread
from mirage_jax.text import encode_text
from mirage_jax.video.live_writer import check_record
from mirage_jax.video.sinks import sink_openers
from mirage_jax.weights import Model


def run_live(settings: LiveSettings, model: Model) -> None:
    """Serves until SIGTERM, Ctrl-C or the end of the config's source.

    Raises:
      MirageError: the address is taken, the device has no room for the streams, or
        source or sinks cannot be had.
    """
    log_to_stderr(settings.log)
    config = settings.stream(jax.local_devices()[0].platform)
    device = SeatedStreams(model, config, settings.seed)
    openers = sink_openers(
        config.height,
        config.width,
        settings.record,
        settings.push,
        settings.virtual_camera,
    )
    if settings.recordings:
        check_record(str(Path(settings.recordings, "mirage.mp4")))
    outputs = Outputs([SinkThread(name, opener) for name, opener in openers.items()])
    print(f"streams       {config.batch} of {config.height}x{config.width}")
    if not asyncio.run(_serve(settings, device, outputs)):
        # Nothing can interrupt a compilation, and Python must not take the compiler's
        # thread down in the midst of it: no clean-up, everything is closed.
        sys.stdout.flush()
        os._exit(0)


async def _serve(
    settings: LiveSettings, device: SeatedStreams, outputs: Outputs
) -> bool:
    """Serves until a signal; False if the device's thread could not be ended."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    fatal: list[MirageError] = []

    def give_up(error: MirageError) -> None:
        fatal.append(error)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(device, settings.limits(), on_fatal=give_up)
    settings, names = with_token(settings), listed_names(settings)
    files = certificate_files(settings, names)
    secure = tls_context(*files) if files else None
    access = Access(settings.token, names)
    source_key = settings.source_key or secrets.token_urlsafe(24)

    def ready(port: int) -> None:
        url = page_url(settings, secure is not None, port)
        if settings.source:
            print(f"view          {url}view/source#key={source_key}")
            print(f"MJPEG         {url}streams/source.mjpeg?key={source_key}")
        url = with_fragment(url, settings)
        print(f"page          {url}", flush=True)
        print("stop          Ctrl-C", flush=True)
        if settings.browser and not settings.source and _has_screen():
            loop.run_in_executor(None, webbrowser.open, url)

    server = LiveServer(settings, engine, access, encode_text, secure, outputs)
    await server.serve(stop, ready, source_key)
    if fatal:
        raise fatal[0]
    return engine.stop(0)


def with_token(settings: LiveSettings) -> LiveSettings:
    """With a new token, where clients need one and the settings give none."""
    if settings.token or settings.loopback:
        return settings
    return dataclasses.replace(settings, token=secrets.token_urlsafe(24))


def listed_names(settings: LiveSettings) -> list[str]:
    """The names by which browsers may call this machine."""
    return [name.strip() for name in settings.names.split(",") if name.strip()]


def certificate_files(
    settings: LiveSettings, names: list[str]
) -> tuple[str | Path, str | Path] | None:
    """Certificate and key, given or made; None where only this machine can connect."""
    if settings.certificate:
        return settings.certificate, settings.key
    if settings.loopback:
        return None
    made = own_certificate([public_address(settings.host), *names], state_folder())
    print(f"certificate   own, SHA-256 {fingerprint(made[0])}")
    return made


def page_url(settings: LiveSettings, secure: bool, port: int) -> str:
    """The address by which others call a server of this machine."""
    address = public_address(settings.host)
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if secure else 'http'}://{host}:{port}/"


def with_fragment(url: str, settings: LiveSettings) -> str:
    """With the token behind a #, which never leaves the browser by itself."""
    return f"{url}#token={settings.token}" if settings.token else url


def public_address(host: str) -> str:
    """By which address others call this machine when it listens at `host`."""
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    except ValueError:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, only chooses a way
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()


def _has_screen() -> bool:
    """Whether a browser can open; on a remote shell it would take the terminal."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
