"""WebRTC on loopback: a client of aiortc's own against the server."""

import asyncio
import contextlib
import fractions
import threading
from typing import Any

import numpy as np
import pytest
from live_server import FIRST, running

from mirage_jax.live.protocol import (
    Hello,
    Prompt,
    SourcePicture,
    State,
    Statistics,
    decode_from_server,
    encode,
)

aiortc: Any = pytest.importorskip("aiortc")

from av.video.frame import VideoFrame  # noqa: E402

SIDE = 64


class Camera(aiortc.MediaStreamTrack):
    """Pictures of one grey, 20 a second."""

    kind = "video"

    def __init__(self, value, side=SIDE):
        super().__init__()
        self.value, self.side, self.number = value, side, 0
        self.there = asyncio.Event()
        self.there.set()

    async def recv(self):
        await self.there.wait()
        await asyncio.sleep(0.05)
        self.number += 1
        image = np.full((self.side, self.side, 3), self.value, np.uint8)
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = 4500 * self.number, fractions.Fraction(1, 90_000)
        return frame


class Peer:
    """A client: what a page does."""

    def __init__(self, connection, channel):
        self.connection, self.channel = connection, channel
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.track: Any = None
        channel.on("open", self.opened.set)
        channel.on("message", lambda data: self.messages.put_nowait(data))
        connection.on("track", lambda track: setattr(self, "track", track))

    async def next(self, kind, **fields):
        async with asyncio.timeout(20):
            while True:
                message = decode_from_server(await self.messages.get())
                if (
                    isinstance(message, kind)
                    and fields.items() <= vars(message).items()
                ):
                    return message

    async def brightness(self):
        async with asyncio.timeout(20):
            frame = await self.track.recv()
        return float(frame.to_ndarray(format="rgb24").mean())


async def call(server, connection, token=""):
    await connection.setLocalDescription(await connection.createOffer())
    return await server.http.post(
        f"{server.url}webrtc",
        data=connection.localDescription.sdp.encode(),
        headers={"Authorization": f"Bearer {token}"},
    )


@contextlib.asynccontextmanager
async def peer(server, track, token=""):
    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    made = Peer(connection, connection.createDataChannel("control"))
    connection.addTrack(track)
    try:
        answer = await call(server, connection, token)
        assert answer.status == 201
        description = aiortc.RTCSessionDescription(await answer.text(), "answer")
        await connection.setRemoteDescription(description)
        async with asyncio.timeout(20):
            await made.opened.wait()
        made.channel.send(encode(Hello(token)))
        yield made
    finally:
        await connection.close()


def test_video_goes_up_and_comes_back_styled():
    """The fake device gives the sum of all frames: black ones leave the prompt."""

    async def play():
        async with running("secret") as server:
            async with peer(server, Camera(0), "secret") as one:
                ready = await one.next(State, state="ready")
                assert (ready.height, ready.width) == (8, 8)
                for _ in range(3):
                    shown = await one.brightness()
                assert shown == pytest.approx(FIRST, abs=4)
                one.channel.send(encode(Prompt("x" * 200)))
                async with asyncio.timeout(20):
                    while abs(await one.brightness() - 200) > 6:
                        pass
                counts = await one.next(Statistics)
                assert counts.styled > 3
                assert counts.clients == 1
            async with asyncio.timeout(20):
                while server.engine.clients:
                    await asyncio.sleep(0.02)

    asyncio.run(play())


def test_two_peers_and_a_websocket_have_streams_of_their_own():
    async def play():
        async with running(seats=2) as server:
            async with peer(server, Camera(0)) as one, server.viewer() as other:
                await one.next(State, state="ready")
                await other.next(State, state="ready")
                await other.show(100)
                assert await one.brightness() == pytest.approx(FIRST, abs=4)
                async with peer(server, Camera(0)) as third:
                    assert (await third.next(State, state="busy")).retry

    asyncio.run(play())


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([Hello("x")], "hello was said before"),
        ([SourcePicture(1, 0.0, b"x" * 30)], "pictures come as video"),
        (["text"], "only binary"),
        ([Prompt("x" * 501)], "more than 500 characters"),
    ],
)
def test_bad_messages_are_refused_with_a_reason(messages, words):
    async def play():
        async with running() as server, peer(server, Camera(0)) as one:
            await one.next(State, state="ready")
            for message in messages:
                text = isinstance(message, str)
                one.channel.send(message if text else encode(message))
            assert words in (await one.next(State, state="refused")).detail

    asyncio.run(play())


def test_a_large_picture_is_refused():
    async def play():
        async with running(frame_pixels=4096) as server:
            async with peer(server, Camera(0, 128)) as one:
                told = await one.next(State, state="refused")
                assert "more than 4096 pixels" in told.detail

    asyncio.run(play())


def test_offers_are_checked_before_anything_is_opened():
    async def play():
        async with running("secret", connections=1) as server:

            async def status(offer, **headers):
                headers = {"Authorization": "Bearer secret"} | headers
                async with server.http.post(
                    f"{server.url}webrtc", data=offer, headers=headers
                ) as answer:
                    return answer.status

            assert await status(b"v=0", Authorization="Bearer guess") == 401
            assert await status(b"v=0", Origin="http://elsewhere.example") == 403
            assert await status(b"v=0", Host="elsewhere.example") == 421
            assert await status(b"x" * 70_000) == 413

            async def in_pieces():
                yield b"v=0"

            assert await status(in_pieces()) == 411
            for rubbish in (b"", b"v=0", b"\xff" * 99, b"m=video 9 X\r\n" * 99):
                assert await status(rubbish) == 400
            audio = aiortc.RTCPeerConnection()
            audio.addTransceiver("audio")
            audio.createDataChannel("control")
            assert (await call(server, audio, "secret")).status == 400
            await audio.close()
            async with server.viewer("secret") as viewer:
                await viewer.next(State, state="ready")
                assert await status(b"v=0") == 503

    asyncio.run(play())


def test_a_stopping_server_tells_its_peers():
    stop = asyncio.Event()

    async def play():
        async with running(stop=stop) as server, peer(server, Camera(0)) as one:
            await one.next(State, state="ready")
            stop.set()
            assert (await one.next(State, state="ended")).retry

    asyncio.run(play())


def test_video_goes_on_while_the_camera_is_lost():
    async def play():
        camera = Camera(0)
        async with running(lost="free") as server, peer(server, camera) as one:
            await one.next(State, state="ready")
            seen, counters = 0, server.engine.counters
            while counters.styled < 5:
                await one.brightness()
                seen += 1
            camera.there.clear()
            lost = await one.next(State, state="ready")
            assert lost.detail == "the camera is lost: the stream goes on by itself"
            while seen <= counters.styled:  # of sources there are no more
                await one.brightness()
                seen += 1
            camera.there.set()
            back = await one.next(State, state="ready")
            assert back.detail == "the camera is back"

    asyncio.run(play())


def test_without_webrtc_there_is_no_such_route():
    async def play():
        async with running(transport="websocket") as server:
            async with server.http.post(f"{server.url}webrtc") as answer:
                assert answer.status in (404, 405)

    asyncio.run(play())


def test_coming_and_going_leaves_nothing_behind():
    async def play():
        async with running(seats=1) as server:

            async def come_and_go():
                async with peer(server, Camera(0)) as one:
                    await one.next(State, state="ready")
                    await one.brightness()
                async with asyncio.timeout(20):
                    while "mirage_live_connections 0\n" not in await metrics():
                        await asyncio.sleep(0.02)

            async def metrics():
                async with server.http.get(f"{server.url}metrics") as answer:
                    return await answer.text()

            def left():
                coroutines = [task.get_coro() for task in asyncio.all_tasks()]
                tasks = {getattr(one, "__qualname__", "") for one in coroutines}
                threads = {t for t in threading.enumerate() if "pictures" not in t.name}
                return tasks, len(threads)

            await come_and_go()
            before = left()
            for _ in range(4):
                await come_and_go()
            assert server.engine.clients == 0
            tasks, threads = left()
            assert tasks <= before[0]
            assert threads <= before[1] + 2  # of asyncio's own pool
            assert server.engine.counters.joined == 5

    asyncio.run(play())
