"""The server over real sockets, with a fake device behind it."""

import asyncio
import io
import logging

import pytest
from aiohttp import WSServerHandshakeError
from live_server import brightness, jpeg, running, settings
from PIL import Image

from mirage_jax.errors import MirageError
from mirage_jax.live.protocol import (
    Blend,
    Hello,
    Prompt,
    Reset,
    SourcePicture,
    State,
    Statistics,
    Strength,
    Style,
    StyledPicture,
    encode,
)
from mirage_jax.live.rate import RateLimit

FIRST = len(settings().prompt)  # what the fake device adds to a picture


def test_two_viewers_get_their_own_frames_and_time_stamps():
    async def play():
        async with (
            running() as server,
            server.viewer() as a,
            server.viewer() as b,
        ):
            for viewer in (a, b):
                ready = await viewer.next(State, state="ready")
                assert (ready.height, ready.width) == (8, 8)
            for turn in (1, 2, 3):
                await a.show(10, turn, 1000.5 + turn)
                await b.show(30, turn)
                for viewer, value in ((a, 10), (b, 30)):
                    picture = await viewer.next(StyledPicture)
                    assert picture.sequence == turn
                    assert picture.styled
                    assert brightness(picture) == pytest.approx(
                        FIRST + turn * value, abs=1
                    )
                    if viewer is a:
                        assert picture.captured == 1000.5 + turn

    asyncio.run(play())


def test_prompt_style_and_reset():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")

            async def shown(sequence):
                await viewer.show(10, sequence)
                return brightness(await viewer.next(StyledPicture))

            async def shown_until(value):
                """Words take a while, on a thread of their own."""
                async with asyncio.timeout(10):
                    while abs(await shown(10) - value) > 1:
                        await viewer.send(Reset())

            assert await shown(1) == pytest.approx(FIRST + 10, abs=1)
            await viewer.send(Prompt("x" * 100))
            await shown_until(110)
            await viewer.send(Style("pencil"))
            await shown_until(len("a pencil drawing on paper") + 10)
            await viewer.send(Prompt(" "))
            told = await viewer.next(State, state="ready")
            assert "is empty" in told.detail
            await viewer.send(Reset())
            assert await shown(5) == pytest.approx(FIRST + 10, abs=1)

    asyncio.run(play())


def test_a_blend_lies_between_two_prompts():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            for amount, value in ((0.0, 100), (0.25, 125), (1.0, 200)):
                await viewer.send(Blend("x" * 100, "y" * 200, amount))
                async with asyncio.timeout(10):
                    shown = 0
                    while abs(shown - value) > 1:
                        await viewer.show(0)
                        shown = brightness(await viewer.next(StyledPicture))

    asyncio.run(play())


def test_busy_house_then_a_free_seat():
    async def play():
        async with running(seats=1) as server:
            async with server.viewer() as first, server.viewer() as second:
                await first.next(State, state="ready")
                busy = await second.next(State, state="busy")
                assert busy.retry
                assert await second.closed() == 1000
            while server.engine.clients:
                await asyncio.sleep(0.01)
            async with server.viewer() as third:
                await third.next(State, state="ready")

    asyncio.run(play())


BAD: dict[str, tuple[list, str]] = {
    "no hello": ([encode(Reset())], "must be a hello"),
    "rubbish": ([b"GET / HTTP/1.1"], "version 69"),
    "text": (["hello"], "must be a hello"),
    "no token": ([encode(Hello("guess"))], "token is missing or wrong"),
    "hello again": ([Hello("secret"), Hello("secret")], "said before"),
    "text later": ([Hello("secret"), "text"], "only binary"),
    "no picture": ([Hello("secret"), SourcePicture(1, 0, b"x" * 99)], "no JPEG"),
    "style": ([Hello("secret"), Style("nothing")], "no style of that name"),
    "long": ([Hello("secret"), Prompt("x" * 501)], "more than 500 characters"),
    "long blend": ([Hello("secret"), Blend("a", "x" * 501, 0.5)], "more than 500"),
    "amount": ([Hello("secret"), Blend("a", "b", 1.5)], "amount must be from 0 to 1"),
    "strength": ([Hello("secret"), Strength(-0.1)], "amount must be from 0 to 1"),
    "no number": ([Hello("secret"), b'\x09\x01{"amount": NaN}'], "not a finite"),
    "gif": ([Hello("secret"), SourcePicture(1, 0, jpeg(9, kind="GIF"))], "no JPEG"),
    "large": ([Hello("secret"), SourcePicture(1, 0, jpeg(9, 80))], "80x80 has more"),
    "cut": ([Hello("secret"), SourcePicture(1, 0, jpeg(9, 60)[:300])], "damaged"),
    "many": ([Hello("secret"), *[Reset()] * 99], "more messages a second than 30"),
}


def test_bad_clients_are_refused_with_a_reason_and_others_go_on():
    async def play():
        limits = {"frame_pixels": 4096, "messages_per_second": 30.0}
        async with running("secret", seats=2, **limits) as server:
            async with server.viewer("secret") as good:
                await good.next(State, state="ready")
                for name, (messages, reason) in BAD.items():
                    async with server.http.ws_connect(f"{server.url}ws") as socket:
                        for message in messages:
                            if isinstance(message, str):
                                await socket.send_str(message)
                            elif isinstance(message, bytes):
                                await socket.send_bytes(message)
                            else:
                                await socket.send_bytes(encode(message))
                        viewer = type(good)(socket)
                        refused = await viewer.next(State, state="refused")
                        assert reason in refused.detail, name
                        assert not refused.retry
                        assert await viewer.closed() == 1008, name
                await good.show(10, 7)
                assert (await good.next(StyledPicture)).sequence == 7
            metrics = {"Authorization": "Bearer secret"}
            async with server.http.get(
                f"{server.url}metrics", headers=metrics
            ) as answer:
                assert f"malformed_total {len(BAD)}\n" in await answer.text()
            async with server.http.get(f"{server.url}metrics") as answer:
                assert answer.status == 401

    asyncio.run(play())


def test_coming_and_going_leaves_nothing_behind():
    async def play():
        async with running(seats=3, messages_per_second=1000.0) as server:
            before = len(asyncio.all_tasks())

            async def visit(number):
                async with server.viewer() as viewer:
                    state = await viewer.next(State)
                    if state.state == "busy" or number % 3 == 0:
                        return
                    for turn in range(number % 5):
                        await viewer.show(1, turn)
                    if number % 2:
                        await viewer.send(Prompt("words"))

            for _ in range(10):
                await asyncio.gather(*(visit(number) for number in range(8)))
            async with asyncio.timeout(10):
                while server.engine.clients or len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.01)
            counters = server.engine.counters
            assert counters.joined + counters.refused == 80
            assert counters.device_errors == 0
            async with server.viewer() as viewer:
                await viewer.next(State, state="ready")
                await viewer.show(10)
                picture = await viewer.next(StyledPicture)
                assert brightness(picture) == pytest.approx(FIRST + 10, abs=1)

    asyncio.run(play())


def test_a_message_beyond_the_limit_ends_the_connection():
    async def play():
        async with running(frame_bytes=10_000) as server:
            async with server.viewer() as viewer:
                await viewer.next(State, state="ready")
                await viewer.send(SourcePicture(1, 0, bytes(20_000)))
                assert await viewer.closed() == 1009

    asyncio.run(play())


def test_hosts_and_origins_of_others_get_nothing():
    async def play():
        async with running(connections=1) as server:
            own = server.url.removesuffix("/")
            for path in ("", "styles.json", "metrics", "healthz"):
                headers = {"Host": "evil.example"}
                async with server.http.get(server.url + path, headers=headers) as got:
                    assert got.status == 421
            for origin in ("http://evil.example", "null", own + "0", "https" + own[4:]):
                with pytest.raises(WSServerHandshakeError) as error:
                    async with server.viewer(headers={"Origin": origin}):
                        pass
                assert error.value.status == 403
            async with server.viewer(headers={"Origin": own}) as viewer:
                await viewer.next(State, state="ready")
                with pytest.raises(WSServerHandshakeError) as error:
                    async with server.viewer():
                        pass
                assert error.value.status == 503

    asyncio.run(play())


def test_page_and_its_files_need_nothing_from_elsewhere():
    async def play():
        async with running() as server:
            texts = {}
            for name in ("", "style.css", "page.js", "protocol.js", "icon.svg"):
                async with server.http.get(server.url + name) as answer:
                    assert answer.status == 200
                    policy = answer.headers["Content-Security-Policy"]
                    assert policy.startswith("default-src 'none'; script-src 'self';")
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    texts[name] = await answer.text()
            assert "https://" not in "".join(texts.values())
            assert "style=" not in texts[""]
            assert " onclick=" not in texts[""]
            async with server.http.get(server.url + "sample.mp4") as answer:
                assert answer.content_type == "video/mp4"
            async with server.http.get(server.url + "..%2fserver.py") as answer:
                assert answer.status == 404
            async with server.http.get(server.url + "styles.json") as answer:
                listed = await answer.json()
            assert len(listed["styles"]) == 18
            assert listed["strength"] == 1
            assert listed["prompt"] in [style["prompt"] for style in listed["styles"]]

    asyncio.run(play())


def test_health_metrics_and_statistics():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            await viewer.show(1)
            await viewer.next(StyledPicture)
            numbers = await viewer.next(Statistics)
            assert (numbers.received, numbers.styled, numbers.dropped) == (1, 1, 0)
            assert (numbers.clients, numbers.seats) == (1, 2)
            async with server.http.get(server.url + "healthz") as answer:
                assert answer.status == 200
                assert (await answer.json())["status"] == "ready"
            async with server.http.get(server.url + "metrics") as answer:
                rows = [
                    line.split()
                    for line in (await answer.text()).splitlines()
                    if not line.startswith("#")
                ]
            values = {name: float(value) for name, value in rows}
            assert values["mirage_live_frames_styled_total"] == 1
            assert values["mirage_live_connections"] == 1
            server.engine.status = "warming"
            async with server.http.get(server.url + "healthz") as answer:
                assert answer.status == 503

    asyncio.run(play())


def test_stopping_tells_the_viewers():
    async def play():
        stop = asyncio.Event()
        async with running(stop=stop) as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            stop.set()
            ended = await viewer.next(State, state="ended")
            assert ended.retry
            assert "stopping" in ended.detail
            await viewer.closed()

    asyncio.run(play())


def test_a_device_error_is_told_and_a_new_connection_works(monkeypatch):
    monkeypatch.setattr("mirage_jax.live.engine._BACK_OFF", (0.01,))

    async def play():
        async with running() as server:
            async with server.viewer() as viewer:
                await viewer.next(State, state="ready")
                server.device.error = RuntimeError("gone")
                await viewer.show(1)
                assert (await viewer.next(State, state="ended")).retry
                await viewer.closed()
            async with server.viewer() as viewer:
                await viewer.next(State, state="ready")
                await viewer.show(20)
                picture = await viewer.next(StyledPicture)
                assert brightness(picture) == pytest.approx(FIRST + 20, abs=1)

    asyncio.run(play())


def test_an_address_that_is_taken_is_one_line():
    async def play():
        async with running() as server:
            port = int(server.url.split(":")[2].strip("/"))
            with pytest.raises(MirageError, match=r"choose another --config\.port"):
                async with running(port=port):
                    pass

    asyncio.run(play())


def test_logs_hold_no_prompt_and_no_address(caplog):
    async def play():
        async with running() as server:
            async with server.viewer() as viewer:
                await viewer.next(State, state="ready")
                await viewer.send(Prompt("my secret wish"))
                await viewer.show(1)
                await viewer.next(StyledPicture)
                await viewer.send(SourcePicture(1, 0, b"secret picture"))
                await viewer.closed()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(play())
    assert "a client was refused" in caplog.text
    assert "secret" not in caplog.text
    assert "127.0.0.1" not in caplog.text


def test_webp_is_taken_and_of_an_animation_the_first_frame():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            file = io.BytesIO()
            pictures = [Image.new("RGB", (8, 8), (v, v, v)) for v in (40, 90)]
            pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:])
            await viewer.send(SourcePicture(1, 0, file.getvalue()))
            picture = await viewer.next(StyledPicture)
            assert brightness(picture) == pytest.approx(FIRST + 40, abs=2)

    asyncio.run(play())


def test_rate_limit_gives_tokens_back_with_time():
    now = [0.0]
    rate = RateLimit(10, 3, lambda: now[0])
    assert [rate.allow() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.1
    assert [rate.allow() for _ in range(2)] == [True, False]
    now[0] = 100
    assert sum(rate.allow() for _ in range(10)) == 3
