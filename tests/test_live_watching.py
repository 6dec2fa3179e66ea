"""Shared streams: who may watch, what they see, and that nobody is held up."""

import asyncio
import contextlib

import pytest
from live_server import FIRST, brightness, running

from mirage_jax.live.protocol import Share, State, StyledPicture

KEY = "0123456789abcdefghijkl"


@contextlib.asynccontextmanager
async def watching(server, stream="mine", key=KEY):
    url = f"{server.url}streams/{stream}.mjpeg"
    async with server.http.get(url, headers={"Authorization": f"Bearer {key}"}) as got:
        assert got.status == 200
        assert got.content_type == "multipart/x-mixed-replace"
        yield got.content


async def next_part(content):
    """The JPEG of the next part."""
    async with asyncio.timeout(10):
        head = await content.readuntil(b"\r\n\r\n")
        assert b"Content-Type: image/jpeg" in head
        length = int(head.rpartition(b"Content-Length: ")[2])
        data = await content.readexactly(length)
        assert await content.readexactly(2) == b"\r\n"
        return data


async def status(server, path, **options):
    async with server.http.get(f"{server.url}{path}", **options) as answer:
        return answer.status, await answer.text()


async def watched(server, count):
    """Waits until a server knows so many viewers."""
    async with asyncio.timeout(10):
        while (
            f"mirage_live_viewers {count}\n" not in (await status(server, "metrics"))[1]
        ):
            await asyncio.sleep(0.01)


def test_viewers_see_the_stream_that_was_shared_and_no_other():
    async def play():
        async with running() as server, server.viewer() as a, server.viewer() as b:
            for viewer in (a, b):
                await viewer.next(State, state="ready")
            await a.send(Share("mine", KEY))
            await a.show(10)
            await a.next(StyledPicture)
            async with watching(server) as one, watching(server) as two:
                await watched(server, 2)
                await b.show(200)
                await b.next(StyledPicture)
                await a.show(10)
                expected = brightness(await a.next(StyledPicture))
                assert expected == pytest.approx(FIRST + 20, abs=1)
                for content in (one, two):
                    # Who is quick may still see the picture before, but no other's.
                    shown = 0
                    while shown != pytest.approx(expected, abs=1):
                        part = await next_part(content)
                        shown = brightness(type("P", (), {"data": part}))
                        own = FIRST + 10 if shown < expected - 1 else expected
                        assert shown == pytest.approx(own, abs=1)
                # The end of the stream is the end of its viewers.
                await a.send(Share("", ""))
                for content in (one, two):
                    async with asyncio.timeout(10):
                        assert await content.read() == b""
            await watched(server, 0)
            assert (await status(server, f"streams/mine.mjpeg?key={KEY}"))[0] == 404

    asyncio.run(play())


def test_who_has_no_key_learns_nothing():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            await viewer.send(Share("mine", KEY))
            await viewer.show(10)
            await viewer.next(StyledPicture)
            answers = {
                await status(server, path)
                for path in (
                    "streams/mine.mjpeg",
                    "streams/mine.mjpeg?key=",
                    f"streams/mine.mjpeg?key={KEY[:-1]}",
                    f"streams/mine.mjpeg?key={KEY}%C3%A9",
                    f"streams/other.mjpeg?key={KEY}",
                )
            }
            assert len(answers) == 1
            assert answers.pop()[0] == 404
            foreign = {"headers": {"Host": "elsewhere.example"}}
            mine = f"streams/mine.mjpeg?key={KEY}"
            assert (await status(server, mine, **foreign))[0] == 421

    asyncio.run(play())


def test_a_bad_wish_to_share_is_answered_and_the_stream_goes_on():
    async def play():
        async with running() as server, server.viewer() as a, server.viewer() as b:
            for viewer in (a, b):
                await viewer.next(State, state="ready")
            await a.send(Share("mine", KEY))
            await a.show(10)
            await a.next(StyledPicture)
            for share, words in (
                (Share("mine", KEY), "another stream"),
                (Share("x", KEY), "id of 4 to 64"),
                (Share("mine/../x", KEY), "id of 4 to 64"),
                (Share("other", "short"), "key of 16"),
            ):
                await b.send(share)
                assert words in (await b.next(State, state="ready")).detail
            await b.show(10)
            await b.next(StyledPicture)

    asyncio.run(play())


def test_viewers_count_as_connections():
    async def play():
        async with running(connections=2) as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            await viewer.send(Share("mine", KEY))
            await viewer.show(10)
            await viewer.next(StyledPicture)
            async with watching(server):
                path = f"streams/mine.mjpeg?key={KEY}"
                assert (await status(server, path))[0] == 503

    asyncio.run(play())


def test_a_viewer_that_reads_nothing_holds_nobody_up():
    async def play():
        async with running() as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            await viewer.send(Share("mine", KEY))
            await viewer.show(1)
            await viewer.next(StyledPicture)
            async with watching(server), watching(server) as quick:
                await watched(server, 2)
                for number in range(30):
                    await viewer.show(1, number)
                    await viewer.next(StyledPicture, sequence=number)
                    await next_part(quick)

    asyncio.run(play())


def test_the_bare_page_is_served_for_any_id():
    async def play():
        async with running() as server:
            for path, kind in (
                ("view/anything", "text/html"),
                ("view.js", "text/javascript"),
                ("view.css", "text/css"),
            ):
                async with server.http.get(f"{server.url}{path}") as answer:
                    assert answer.status == 200
                    assert answer.content_type == kind
                    assert "frame-ancestors 'none'" in str(answer.headers)

    asyncio.run(play())
