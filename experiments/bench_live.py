"""Measures the live server as a client sees it, over a WebSocket of this machine.

    python -m experiments.bench_live --sizes=256,512 --clients=2

Starts the server of configs/live.py at each size, with a seat for every client. A
client plays the demo's clip as its camera, `--rate` frames a second, and sends its
newest frame as JPEG when the page would: one while the device works, a second shortly
before it is free. Glass to glass is the time from the moment at which the camera has
the frame until the styled picture is decoded again; a browser adds its camera's and
its screen's own delay. A frame's time in the engine begins after the source was decoded
and ends before the picture is encoded; what it is longer than a step is the engine's
own, and the wait for the step before. With `--recording` each size is measured once
more while the first client's pictures are written to a file. Writes one JSON file;
fails where a client gets fewer than two frames, or a recording none.
"""

import asyncio
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import jax
import numpy as np
from absl import app, flags

from configs import demo, live
from experiments.command import command
from mirage_jax.live.access import Access
from mirage_jax.live.device import SeatedStreams
from mirage_jax.live.engine import Engine
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.pictures import decode_picture, encode_picture
from mirage_jax.live.protocol import (
    Hello,
    SourcePicture,
    Statistics,
    StyledPicture,
    decode_from_server,
    encode,
)
from mirage_jax.live.server import LiveServer
from mirage_jax.live.settings import LiveSettings
from mirage_jax.live.sink_thread import SinkThread
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.text import encode_text
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.reader import VideoReader
from mirage_jax.video.sinks import sink_openers
from mirage_jax.weights import load_model
from pallas_kernels import device as cards

_MODEL = flags.DEFINE_string("model", "default", "A shipped model or a folder.")
_SIZES = flags.DEFINE_list("sizes", ["256"], "Sides of square frames, or 288x512.")
_CLIENTS = flags.DEFINE_integer("clients", 1, "Clients, each with a seat.")
_RATE = flags.DEFINE_float("rate", 30.0, "Frames a second of every camera.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "To measure, after the warm-up.")
_RECORDING = flags.DEFINE_bool("recording", False, "Also while a file is written.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/live_<model>_<device>.json by default."
)
# As in the page: frames on their way, and how long before the device is free, in
# seconds, the second one is taken.
_AHEAD = 2
_LEAD = 0.06
_CLIP_FRAMES = 48


@dataclasses.dataclass
class Seen:
    """What one client saw.

    Attributes:
      delays: seconds of every frame.
      statistics: the server's last.
      answered: number of the last frame that came back, and `answered_at` when.
    """

    answered: int = 0
    answered_at: float = 0.0
    delays: list[float] = dataclasses.field(default_factory=list)
    statistics: Statistics | None = None


def run() -> bool:
    """Measures every size; True if a client got nothing."""
    load = os.getloadavg()[0]  # before we add to it: others slow a CPU down
    results: list[Result] = []
    failed = False
    heads = ("clients", "fps", "device", "glass p50", "p99")
    print(f"{'size':>9}", *(f"{head:>10}" for head in heads))
    rounds = [(size, False) for size in _SIZES.value]
    if _RECORDING.value:
        rounds = [(size, on) for size in _SIZES.value for on in (False, True)]
    for size, recording in rounds:
        seen, warm_up, engine, recorded = asyncio.run(measure(size, recording))
        end = "_recording" if recording else ""
        found = results_of(f"{size}/{_CLIENTS.value}", seen, warm_up, engine, end)
        if recording:
            found.append(Result(f"recorded/{size}", recorded, "frames"))
            failed |= not recorded
        results += found
        failed |= any(len(one.delays) < 2 for one in seen)
        fps, step, p50, p99 = (found[i].value for i in range(4))
        print(
            f"{size:>9} {_CLIENTS.value:>10} {fps:>10.1f}",
            *(f"{value:>7.1f} ms" for value in (step, p50, p99)),
            "recording" if recording else "",
            flush=True,
        )
    card = cards.present()
    slug = "cpu" if card is None else card.slug
    out = _OUT.value or f"docs/results/live_{_MODEL.value}_{slug}.json"
    setup = device_setup() | {
        "model": _MODEL.value,
        "clients": _CLIENTS.value,
        "camera_fps": _RATE.value,
        "seconds": _SECONDS.value,
        "transport": "WebSocket on loopback, clients in the same process, JPEG",
        "cores": os.cpu_count(),
        "load_average": load,
    }
    write_results(out, "experiments/bench_live.py", setup, results)
    print(f"results in {out}")
    return failed


def results_of(
    path: str, seen: Sequence[Seen], warm_up: float, engine: float, end: str = ""
) -> list[Result]:
    """Numbers of one size; `path` is size/clients, `end` is added to their names."""
    delays = 1000 * np.array([delay for one in seen for delay in one.delays] or [1e6])
    counts = [len(one.delays) for one in seen]
    steps = [one.statistics.device_ms for one in seen if one.statistics]
    p50, p99 = np.percentile(delays, (50, 99))
    low = "lower"
    return [
        Result(f"fps{end}/{path}", min(counts) / _SECONDS.value, "frames/s"),
        Result(f"step_ms{end}/{path}", float(np.mean(steps or [0])), "ms", low),
        Result(f"glass_to_glass_ms{end}/{path}/p50", float(p50), "ms", low),
        Result(f"glass_to_glass_ms{end}/{path}/p99", float(p99), "ms", low),
        Result(f"fairness{end}/{path}", min(counts) / max(1, *counts), ""),
        Result(f"engine_ms{end}/{path}", 1000 * engine, "ms", low),
        Result(f"warm_up_s{end}/{path}", warm_up, "s", low),
    ]


async def measure(size: str, recording: bool) -> tuple[list[Seen], float, float, int]:
    """Runs server and clients.

    Returns:
      What each client saw; seconds of the warm-up, and of a frame in the engine, the
      mean of all; frames recorded.
    """
    values = live.get_config().to_dict()
    del values["kind"]
    settings = LiveSettings.from_values(
        values
        | {"model": _MODEL.value, "size": size, "cpu_size": size, "port": 0}
        | {"seats": _CLIENTS.value, "cpu_seats": _CLIENTS.value}
    )
    config = settings.stream(jax.local_devices()[0].platform)
    engine = Engine(SeatedStreams(load_model(_MODEL.value), config), settings.limits())
    clip = read_clip(config.height, config.width)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    folder = tempfile.TemporaryDirectory()
    record = str(Path(folder.name, "recording.mp4")) if recording else ""
    openers = sink_openers(config.height, config.width, record, "", False)
    outputs = Outputs([SinkThread(name, opener) for name, opener in openers.items()])
    server = LiveServer(settings, engine, Access(), encode_text, outputs=outputs)
    serving = asyncio.create_task(server.serve(stop, port.set_result))
    begin = time.perf_counter()
    url = f"http://127.0.0.1:{await port}/ws"
    while engine.status != "ready":
        await asyncio.sleep(0.05)
    warm_up = time.perf_counter() - begin
    seen = [Seen() for _ in range(_CLIENTS.value)]
    await asyncio.gather(*(watch(url, clip, one) for one in seen))
    stop.set()
    await serving
    with folder:
        in_engine = engine.counters.frame_seconds / max(1, engine.counters.styled)
        return seen, warm_up, in_engine, outputs.written


def read_clip(height: int, width: int) -> list[np.ndarray]:
    """The first frames of the demo's clip at this size."""
    with VideoReader(demo.get_config().source) as reader:
        frames = zip(range(_CLIP_FRAMES), reader, strict=False)
        return [fit_frame(frame.image, height, width) for _, frame in frames]


async def watch(url: str, clip: list[np.ndarray], seen: Seen) -> None:
    """One client: a task that sends and one that receives, until time is over."""
    async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
        await socket.send_bytes(encode(Hello()))
        tasks = [
            asyncio.create_task(send(socket, clip, seen)),
            asyncio.create_task(receive(socket, seen)),
        ]
        while not seen.delays:  # the encoder of prompts may still be compiled
            await asyncio.sleep(0.01)
        seen.delays.clear()
        await asyncio.sleep(_SECONDS.value)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send(socket: Any, clip: list[np.ndarray], seen: Seen) -> None:
    """The camera: sends its newest frame while few are on their way."""
    begin, sequence = time.perf_counter(), 0
    while True:
        number = int((time.perf_counter() - begin) * _RATE.value) + 1
        captured = begin + number / _RATE.value
        await asyncio.sleep(max(0.0, captured - time.perf_counter()))
        on_the_way = sequence - seen.answered
        device = seen.statistics.device_ms / 1000 if seen.statistics else 0.0
        early = time.perf_counter() - seen.answered_at < device - _LEAD
        if on_the_way >= _AHEAD or (on_the_way == 1 and early):
            continue
        sequence += 1
        image = clip[number % len(clip)]
        data = await asyncio.to_thread(encode_picture, image, 85)
        await socket.send_bytes(encode(SourcePicture(sequence, captured, data)))


async def receive(socket: Any, seen: Seen) -> None:
    """The screen: decodes what comes, and notes how old it is."""
    async for message in socket:
        got = decode_from_server(message.data)
        if isinstance(got, Statistics):
            seen.statistics = got
        elif isinstance(got, StyledPicture):
            seen.answered, seen.answered_at = got.sequence, time.perf_counter()
            await asyncio.to_thread(decode_picture, got.data, 1 << 26)
            seen.delays.append(time.perf_counter() - got.captured)


main = command("bench_live", run)

if __name__ == "__main__":
    app.run(main)
