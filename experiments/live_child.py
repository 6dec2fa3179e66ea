"""A live server as a child process: started, looked at, stopped, killed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from mirage_jax.errors import MirageError

_ROOT = Path(__file__).parent.parent
_START_SECONDS = 600.0
_STOP_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a server holds at a moment.

    Attributes:
      memory: resident, in MiB.
      threads: of the process.
      files: open descriptors, sockets among them.
      tasks: of its event loop.
      clients: with a seat.
    """

    memory: float
    threads: int
    files: int
    tasks: int
    clients: int


class LiveChild:
    """`main.py --config configs/live.py` on loopback, with a token. Linux only.

    Args:
      http: asks for its health and its numbers.
      settings: of the config, by name.

    Attributes:
      url: its address, with a slash at the end.
      token: that its clients must show.
    """

    def __init__(self, http: aiohttp.ClientSession, **settings: object):
        self.url, self.token = "", secrets.token_urlsafe(24)
        self._http, self._settings, self._port = http, settings, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.NamedTemporaryFile(suffix=".log")

    async def start(self) -> float:
        """Seconds until frames are styled; at the same port from the second time on.

        Raises:
          MirageError: it ends or takes too long.
        """
        begin = time.monotonic()
        self._log.truncate(0)
        settings = {"browser": False, "port": self._port, "token": self.token}
        arguments = [
            f"--config.{name}={value}"
            for name, value in (settings | self._settings).items()
        ]
        self._process = subprocess.Popen(
            [sys.executable, "main.py", "--config=configs/live.py", *arguments],
            cwd=_ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        while not await self._ready():
            if self._process.poll() is not None or self._late(begin):
                raise MirageError(f"the live server did not start: {self.log[-500:]}")
            await asyncio.sleep(0.1)
        return time.monotonic() - begin

    def _late(self, begin: float) -> bool:
        return time.monotonic() - begin > _START_SECONDS

    async def _ready(self) -> bool:
        for line in self.log.splitlines():
            if line.startswith("page "):
                self.url = line.split()[1].partition("#")[0]
                self._port = int(self.url.strip("/").rpartition(":")[2])
                with contextlib.suppress(aiohttp.ClientError):
                    async with self._http.get(f"{self.url}healthz") as answer:
                        return answer.status == 200
        return False

    @property
    def log(self) -> str:
        """What it has said since its start."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    async def numbers(self) -> dict[str, float]:
        """Of /metrics, without the prefix."""
        shown = {"Authorization": f"Bearer {self.token}"}
        async with self._http.get(f"{self.url}metrics", headers=shown) as answer:
            answer.raise_for_status()
            lines = (await answer.text()).splitlines()
        rows = [line.split() for line in lines if not line.startswith("#")]
        return {name.removeprefix("mirage_live_"): float(v) for name, v in rows}

    async def sample(self) -> Sample:
        assert self._process is not None
        proc = Path("/proc", str(self._process.pid))
        numbers = await self.numbers()
        pages = int((proc / "statm").read_text().split()[1])
        return Sample(
            memory=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            threads=len(os.listdir(proc / "task")),
            files=len(os.listdir(proc / "fd")),
            tasks=int(numbers["tasks"]),
            clients=int(numbers["clients"]),
        )

    async def kill(self) -> None:
        """As a crash: nobody is told."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def stop(self) -> int:
        """Its exit status after SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, _STOP_SECONDS)

    def close(self) -> None:
        """Nothing of it is left, whatever went wrong."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextlib.asynccontextmanager
async def live_child(**settings: object) -> AsyncIterator[LiveChild]:
    """One that is ready, for the time of a `with`."""
    async with aiohttp.ClientSession() as http:
        child = LiveChild(http, **settings)
        try:
            await child.start()
            yield child
        finally:
            child.close()
