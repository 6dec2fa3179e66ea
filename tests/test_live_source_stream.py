"""The server's own stream: from a source to sinks, without a page."""

import asyncio
import threading

import av
import numpy as np
import pytest
from live_server import SOURCE_KEY, running, settings

from mirage_jax.errors import MirageError
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.protocol import Record, State, StyledPicture
from mirage_jax.live.sink_thread import SinkThread


class Keep:
    def __init__(self):
        self.images, self.closed = [], False

    def write(self, image, time):
        self.images.append(image)

    def close(self):
        self.closed = True


def kept():
    sink = Keep()
    return sink, Outputs([SinkThread("keep", lambda: sink)])


def test_a_source_is_styled_and_written_and_ends_the_server():
    sink, outputs = kept()
    stop = asyncio.Event()

    async def play():
        changes = {"source": "pattern", "source_seconds": 0.5, "idle_seconds": 2.0}
        async with running(stop=stop, outputs=outputs, **changes) as server:
            url = f"{server.url}streams/source.mjpeg?key={SOURCE_KEY}"
            async with server.http.get(url) as answer:
                assert answer.status == 200
                assert b"image/jpeg" in await answer.content.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(10):
                await stop.wait()
            assert server.engine.clients == 0

    asyncio.run(play())
    assert sink.closed
    assert len(sink.images) > 3
    assert sink.images[0].shape == (8, 8, 3)
    values = [int(image[0, 0, 0]) for image in sink.images]
    assert len(set(values)) > 2  # what the fake device makes of moving pictures


def test_a_source_comes_back_after_an_error_of_the_device():
    sink, outputs = kept()

    async def play():
        async with running(outputs=outputs, source="pattern") as server:
            async with asyncio.timeout(20):
                while not sink.images:
                    await asyncio.sleep(0.01)
                server.device.error = RuntimeError("the device is gone")
                while not server.engine.counters.device_errors:
                    await asyncio.sleep(0.01)
                before = len(sink.images)
                while len(sink.images) < before + 3:
                    await asyncio.sleep(0.01)
            assert server.engine.counters.joined == 2

    asyncio.run(play())


def test_a_source_that_is_not_there_ends_the_server_with_its_line():
    stop = asyncio.Event()

    async def play():
        async with running(stop=stop, source="nowhere.mp4"), asyncio.timeout(10):
            await stop.wait()

    with pytest.raises(MirageError, match="there is no file nowhere.mp4"):
        asyncio.run(play())


def test_outputs_without_a_source_follow_the_first_client():
    sink, outputs = kept()

    async def play():
        async with running(outputs=outputs) as server, server.viewer() as viewer:
            while not sink.images:
                await viewer.show(10)
                await asyncio.sleep(0.01)

    asyncio.run(play())
    assert sink.closed
    assert isinstance(sink.images[0], np.ndarray)


def test_a_client_records_on_the_server(tmp_path):
    async def play():
        folder = str(tmp_path / "new")
        changes = {"recordings": folder, "side": 64, "recording_seconds": 1.0}
        async with running(**changes) as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")

            async def show(count):
                for number in range(count):
                    await viewer.show(10, number)
                    await viewer.next(StyledPicture, sequence=number)

            for _ in range(2):
                await viewer.send(Record(True))
                await viewer.next(State, detail="the server is recording")
                await show(5)
                await viewer.send(Record(False))
                await viewer.next(State, detail="the recording ended")
                await show(2)
            await viewer.send(Record(True))
            await viewer.next(State, detail="the server is recording")
            await show(3)
            await viewer.next(State, detail="the recording ended")  # it is long enough
            await viewer.send(Record(True))
            await viewer.next(State, detail="the server is recording")
            await show(3)  # and the end of the stream ends it

    asyncio.run(play())
    files = sorted((tmp_path / "new").iterdir())
    assert len(files) == 4
    for path in files:
        with av.open(str(path)) as video:
            assert 1 <= len(list(video.decode(video=0))) <= 5


def test_a_client_may_not_record_unless_the_settings_say_so():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            await viewer.send(Record(True))
            told = await viewer.next(State, state="ready")
            assert "--config.recordings" in told.detail

    asyncio.run(play())


def test_no_thread_stays():
    before = {thread.name for thread in threading.enumerate()}
    sink, outputs = kept()

    async def play():
        async with running(outputs=outputs, source="pattern"):
            while not sink.images:
                await asyncio.sleep(0.01)

    asyncio.run(play())
    after = {thread.name for thread in threading.enumerate()}
    assert not {"source", "keep", "device"} & (after - before)


def test_a_source_lasts_for_a_sensible_time():
    with pytest.raises(MirageError, match="source_seconds -1"):
        settings(source_seconds=-1.0)


def test_a_key_that_can_be_guessed_is_refused():
    with pytest.raises(MirageError, match="take 16 to 128 letters") as caught:
        settings(source_key="s3cret")
    assert "s3cret" not in str(caught.value)
    assert settings(source_key="k" * 16)
