"""A server with a fake device or another on a free port, for the time of a `with`."""

import asyncio
import contextlib
import io

import aiohttp
import numpy as np
from live_fakes import SIDE, FakeDevice
from PIL import Image

from configs import live as live_config
from mirage_jax.live.access import Access
from mirage_jax.live.engine import Engine
from mirage_jax.live.protocol import Hello, SourcePicture, decode_from_server, encode
from mirage_jax.live.server import LiveServer
from mirage_jax.live.settings import LiveSettings
from mirage_jax.text import check_prompt

SOURCE_KEY = "the-key-of-the-source"


def settings(**changes):
    values = live_config.get_config().to_dict() | {"port": 0, "browser": False}
    values.pop("kind")
    # On a busy machine no frame is too old, unless a test says so.
    values["deadline_ms"] = 10_000.0
    return LiveSettings.from_values(values | changes)


def embed(prompts):
    """Prompt -> its length, 384 times."""
    return np.array([[len(check_prompt(p))] * 384 for p in prompts], np.float32)


class Running:
    """What a test needs of a running server."""

    def __init__(self, url, http, engine, device):
        self.url, self.http, self.engine, self.device = url, http, engine, device

    @contextlib.asynccontextmanager
    async def viewer(self, token="", **options):
        async with self.http.ws_connect(f"{self.url}ws", **options) as socket:
            await socket.send_bytes(encode(Hello(token)))
            yield Viewer(socket)


class Viewer:
    """A client without a browser."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, message):
        await self.socket.send_bytes(encode(message))

    async def show(self, value, sequence=0, captured=0.0):
        await self.send(SourcePicture(sequence, captured, jpeg(value)))

    async def next(self, kind, **fields):
        """The next message of this kind with these fields; others are passed over."""
        async with asyncio.timeout(10):
            while True:
                data = (await self.socket.receive()).data
                assert isinstance(data, bytes), data  # the socket is closed
                message = decode_from_server(data)
                if isinstance(message, kind):
                    if fields.items() <= vars(message).items():
                        return message

    async def closed(self):
        """The code with which the server closes."""
        async with asyncio.timeout(10):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code


@contextlib.asynccontextmanager
async def running(
    token="",
    secure=None,
    seats=2,
    stop=None,
    outputs=None,
    side=SIDE,
    device=None,
    **changes,
):
    device = device or FakeDevice(seats, side=side)
    configured = settings(**changes)
    engine = Engine(device, configured.limits())
    server = LiveServer(configured, engine, Access(token), embed, secure, outputs)
    stop = stop or asyncio.Event()
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(stop, port.set_result, SOURCE_KEY))
    await asyncio.wait([port, task], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    scheme = "http" if secure is None else "https"
    url = f"{scheme}://127.0.0.1:{port.result()}/"
    while engine.status != "ready":
        await asyncio.sleep(0.005)
    try:
        async with aiohttp.ClientSession() as http:
            yield Running(url, http, engine, device)
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


def jpeg(value, side=SIDE, kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, kind)
    return file.getvalue()


def brightness(picture):
    image = np.asarray(Image.open(io.BytesIO(picture.data)))
    assert image.shape == (SIDE, SIDE, 3)
    return round(float(image.mean()))


FIRST = len(settings().prompt)  # what the fake device adds to a picture
