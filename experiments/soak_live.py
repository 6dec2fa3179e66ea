"""Loads a live server for minutes, breaks what can break, and looks at what is left.

    python -m experiments.soak_live

The server is a process of its own, on loopback and with a token; every client shows a
picture that carries its number. One after the other:

- `fair`: so many clients at once; how many pictures each gets;
- `camera_lost`: one client is silent for some seconds while another goes on;
- `visits`: clients come and go, half of them without a word;
- `hostile`: clients that must be refused, while one goes on that must not;
- `growth`: two clients for long; threads, files, tasks and memory by the minute;
- `killed`: the server is killed and started again, and a client comes back.

Writes one JSON file. Fails where a client starves, a picture is not its client's, a
refusal is not the right one, or anything is left behind or grows. Linux only.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
from absl import app, flags

from configs import live
from experiments.coded_client import SIDE, CodedClient, coded_client
from experiments.command import command
from experiments.hostile_clients import hostile_clients, refused_rightly
from experiments.live_child import LiveChild, Sample, live_child
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from pallas_kernels import device as cards

_MODEL = flags.DEFINE_string("model", "default", "A shipped model or a folder.")
_CLIENTS = flags.DEFINE_integer("clients", 8, "At once; so many seats there are.")
_RATE = flags.DEFINE_float("rate", 30.0, "Frames a second of all clients at once.")
_FAIR = flags.DEFINE_float("fair_seconds", 120.0, "With all clients.")
_SILENCE = flags.DEFINE_float("silence", 5.0, "Seconds without a camera.")
_VISITS = flags.DEFINE_integer("visits", 200, "Clients that come and go.")
_HOSTILE = flags.DEFINE_integer("hostile", 1000, "Clients to be refused.")
_GROWTH = flags.DEFINE_float("growth_seconds", 600.0, "With two clients.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/soak_live_<model>_<device>.json by default."
)
_CALM = 4.0  # frames a second of every client in the other parts
# A style that leaves bright what is bright, which the clients' numbers are read from.
_PROMPT = "an old photograph in sepia"
_UNFAIR = 1.2  # the most pictures of a client over the fewest
_LEFT_MIB = 64.0  # allocators keep some memory for the next client
_GROWTH_MIB = 16.0  # in ten minutes
_SAMPLES = 60
_KEPT = ("threads", "files", "tasks")
# Results whose names end so must be 0.
_NONE = {"foreign", "not_refused", *_KEPT, *(f"{n}_left" for n in _KEPT)}
_SETTLING_SECONDS = 30.0


def run() -> bool:
    """Soaks a server; True if it failed."""
    load = os.getloadavg()[0]  # before we add to it
    results, failures = asyncio.run(soak())
    for result in results:
        print(f"{result.name:<32} {result.value:>10.4g} {result.unit}")
    # Only now, when the server is gone: it needs the device for itself.
    card = cards.present()
    slug = "cpu" if card is None else card.slug
    out = _OUT.value or f"docs/results/soak_live_{_MODEL.value}_{slug}.json"
    setup = device_setup() | {
        "model": _MODEL.value,
        "size": SIDE,
        "clients": _CLIENTS.value,
        "rate": _RATE.value,
        "fair_seconds": _FAIR.value,
        "growth_seconds": _GROWTH.value,
        "transport": "WebSocket on loopback with a token, JPEG, server by itself",
        "cores": os.cpu_count(),
        "load_average": load,
    }
    write_results(out, "experiments/soak_live.py", setup, results)
    print(f"results in {out}")
    for failure in failures:
        print(f"failed: {failure}")
    return bool(failures)


async def soak() -> tuple[list[Result], list[str]]:
    """All parts, one after the other: numbers, and which of them are wrong."""
    settings: dict[str, Any] = {"model": _MODEL.value, "prompt": _PROMPT}
    settings |= {"size": SIDE, "cpu_size": SIDE}
    settings |= {"seats": _CLIENTS.value, "cpu_seats": _CLIENTS.value}
    # Beyond the seats, so that clients are refused by what they say.
    settings["connections"] = 4 * _CLIENTS.value
    results: list[Result] = []
    async with live_child(**settings) as child, aiohttp.ClientSession() as http:
        # Threads and programs are made when they are first needed.
        await fair(http, child, 2.0)
        for part in (fair, camera_lost, visits, hostile, growth, killed):
            print(f"{part.__name__} ...", flush=True)
            results += await part(http, child)
        if child.log.count("Traceback"):
            raise MirageError(f"the live server had an error: {child.log[-2000:]}")
        results.append(Result("exit_status", await child.stop(), "", "lower"))
    return results, wrong(results)


def wrong(results: Sequence[Result]) -> list[str]:
    """What should not be, in words."""
    found = {result.name: result.value for result in results}
    most = {
        "fair/most_over_fewest": _UNFAIR,
        "visits/memory_left": _LEFT_MIB,
        "hostile/memory_left": _LEFT_MIB,
        "growth/memory": _GROWTH_MIB,
    }
    least = {"fair/fewest": 1.0, "growth/pictures": 1.0, "killed/pictures": 1.0}
    none = [name for name in found if name.rpartition("/")[2] in _NONE]
    beyond = [name for name, limit in most.items() if found[name] > limit]
    beyond += [name for name, limit in least.items() if found[name] < limit]
    beyond += [name for name in none if found[name] > 0]
    beyond += ["exit_status"] if found["exit_status"] else []
    return [f"{name} is {found[name]:g}" for name in beyond]


async def fair(
    http: aiohttp.ClientSession, child: LiveChild, seconds: float | None = None
) -> list[Result]:
    """All seats are taken, and everybody wants as much."""
    seconds = _FAIR.value if seconds is None else seconds

    async def watch(number: int) -> CodedClient:
        async with coded_client(http, child.url, child.token, number) as client:
            await barrier.wait()
            await client.show_for(seconds, _RATE.value)
            return client

    barrier = asyncio.Barrier(_CLIENTS.value)
    clients = await asyncio.gather(*(watch(i) for i in range(_CLIENTS.value)))
    counts = [client.styled for client in clients]
    return [
        Result("fair/most_over_fewest", max(counts) / max(1, min(counts)), "", "lower"),
        Result("fair/fewest", min(counts), "pictures"),
        Result("fair/most", max(counts), "pictures"),
        _foreign("fair", clients),
    ]


async def camera_lost(http: aiohttp.ClientSession, child: LiveChild) -> list[Result]:
    """The stream goes on beside another one, without pictures of its own."""
    async with (
        coded_client(http, child.url, child.token, 2) as lost,
        coded_client(http, child.url, child.token, 5) as other,
    ):
        await lost.show_for(2.0, _CALM)
        before = lost.styled
        await other.show_for(_SILENCE.value, _CALM)
        begin = time.perf_counter()
        while lost.styled == before:
            await lost.show()
        back = time.perf_counter() - begin
        await lost.show_for(2.0, _CALM)
    return [
        Result("camera_lost/silence", _SILENCE.value, "s", "lower"),
        Result("camera_lost/pictures_beside", other.styled, "pictures"),
        Result("camera_lost/first_picture", 1000 * back, "ms", "lower"),
        Result("camera_lost/pictures_after", lost.styled - before, "pictures"),
        _foreign("camera_lost", [lost, other]),
    ]


async def visits(http: aiohttp.ClientSession, child: LiveChild) -> list[Result]:
    """Clients come, show a few pictures or none, and go."""
    numbers = iter(range(_VISITS.value))
    seen: list[CodedClient] = []

    async def come_and_go() -> None:
        for number in numbers:
            async with coded_client(http, child.url, child.token, number) as client:
                seen.append(client)
                for _ in range(number % 3):
                    await client.show()
                if number % 2:
                    client.vanish()

    before = await settled(child)
    await asyncio.gather(*(come_and_go() for _ in range(_CLIENTS.value // 2)))
    after = await settled(child, before)
    return [
        Result("visits/clients", len(seen), "clients"),
        *left("visits", before, after),
        _foreign("visits", seen),
    ]


async def hostile(http: aiohttp.ClientSession, child: LiveChild) -> list[Result]:
    """Every kind in turn, four at a time, beside a client that is well."""
    defaults = live.get_config()
    kinds = hostile_clients(defaults.frame_bytes, defaults.frame_pixels)
    turns = iter(itertools.islice(itertools.cycle(kinds.items()), _HOSTILE.value))
    not_refused: list[str] = []
    before = await settled(child)

    async def attack() -> None:
        for name, kind in turns:
            if not await refused_rightly(http, child.url, child.token, kind):
                not_refused.append(name)

    async with coded_client(http, child.url, child.token, 6) as well:
        attacks = asyncio.gather(*(attack() for _ in range(4)))
        while not attacks.done():
            await well.show_for(0.5, _CALM)
        await attacks
        during = well.styled
        await well.show_for(2.0, _CALM)
    after = await settled(child, before)
    if not_refused:
        print(f"not refused rightly: {', '.join(sorted(set(not_refused)))}")
    return [
        Result("hostile/clients", _HOSTILE.value, "clients"),
        Result("hostile/kinds", len(kinds), "kinds"),
        Result("hostile/not_refused", len(not_refused), "clients", "lower"),
        Result("hostile/pictures_beside", during, "pictures"),
        Result("hostile/pictures_after", well.styled - during, "pictures"),
        *left("hostile", before, after),
        _foreign("hostile", [well]),
    ]


async def growth(http: aiohttp.ClientSession, child: LiveChild) -> list[Result]:
    """Slopes of a straight line through samples of a server that does the same."""
    samples: list[Sample] = []
    moments: list[float] = []

    async def watch(number: int) -> CodedClient:
        async with coded_client(http, child.url, child.token, number) as client:
            await client.show_for(_GROWTH.value, _CALM)
            return client

    watching = asyncio.gather(*(watch(number) for number in (1, 4)))
    begin = time.monotonic()
    while not watching.done():
        await asyncio.sleep(_GROWTH.value / _SAMPLES)
        if (sample := await child.sample()).clients == 2:
            samples.append(sample)
            moments.append((time.monotonic() - begin) / 600)
    clients = await watching
    results = [
        Result("growth/samples", len(samples), ""),
        Result("growth/pictures", min(c.styled for c in clients), "pictures"),
        Result("growth/memory_first", samples[0].memory, "MiB", "lower"),
        Result("growth/memory_last", samples[-1].memory, "MiB", "lower"),
        _foreign("growth", clients),
    ]
    slope = np.polyfit(moments, [sample.memory for sample in samples], 1)[0]
    results.append(Result("growth/memory", float(slope), "MiB/10min", "lower"))
    for name in _KEPT:
        # Not one more for long: the fewest of the last third against the first.
        counts = [getattr(sample, name) for sample in samples]
        third = max(1, len(counts) // 3)
        more = min(counts[-third:]) - min(counts[:third])
        results.append(Result(f"growth/{name}", more, "", "lower"))
    return results


async def killed(http: aiohttp.ClientSession, child: LiveChild) -> list[Result]:
    """As after a crash, with a manager that starts it again."""
    async with coded_client(http, child.url, child.token, 3) as client:
        await client.show_for(1.0, _CALM)
        begin = time.perf_counter()
        await child.kill()
        with contextlib.suppress(MirageError, aiohttp.ClientError, OSError):
            await client.show_for(60.0, _CALM)
        noticed = time.perf_counter() - begin
    starting = asyncio.create_task(child.start())
    while True:
        try:
            async with coded_client(http, child.url, child.token, 3) as client:
                await client.show_for(2.0, _CALM)
                break
        except (MirageError, aiohttp.ClientError, OSError):
            if starting.done():
                starting.result()
            await asyncio.sleep(0.2)
    back = time.perf_counter() - begin
    await starting
    return [
        Result("killed/noticed", 1000 * noticed, "ms", "lower"),
        Result("killed/styled_again", back, "s", "lower"),
        Result("killed/pictures", client.styled, "pictures"),
        _foreign("killed", [client]),
    ]


async def settled(child: LiveChild, before: Sample | None = None) -> Sample:
    """What it holds once nobody is there, and no more than before or after a while."""
    end = time.monotonic() + _SETTLING_SECONDS
    while True:
        sample = await child.sample()
        more = before is not None and any(
            getattr(sample, name) > getattr(before, name) for name in _KEPT
        )
        if not (sample.clients or more) or time.monotonic() > end:
            return sample
        await asyncio.sleep(0.2)


def left(part: str, before: Sample, after: Sample) -> list[Result]:
    """What a part left behind."""
    rest = [
        Result(
            f"{part}/{name}_left",
            getattr(after, name) - getattr(before, name),
            "",
            "lower",
        )
        for name in _KEPT
    ]
    memory = after.memory - before.memory
    return [*rest, Result(f"{part}/memory_left", memory, "MiB", "lower")]


def _foreign(part: str, clients: Sequence[CodedClient]) -> Result:
    foreign = sum(client.foreign for client in clients)
    return Result(f"{part}/foreign", foreign, "pictures", "lower")


main = command("soak_live", run)

if __name__ == "__main__":
    app.run(main)
