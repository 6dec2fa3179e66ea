"""The Python client against a real server with a fake device, and the script of it."""

import asyncio
import importlib
import socket
import time

import av
import numpy as np
import pytest
from absl import flags
from live_server import FIRST, running

from mirage_jax.errors import MirageError
from mirage_jax.live.remote import RemoteStream


def black(side=8):
    return np.zeros((side, side, 3), np.uint8)


def with_server(tool, **options):
    """Runs a tool, which knows no asyncio, beside a server."""

    async def play():
        async with running(**options) as server:
            await asyncio.to_thread(tool, server)

    asyncio.run(play())


def test_frames_go_there_and_back():
    def tool(server):
        with RemoteStream(f"{server.url}#token=secret") as stream:
            stream.wait_until_ready(10)
            styled = stream.style(black(20))  # of any size
            assert styled.shape == (8, 8, 3)
            assert styled.mean() == pytest.approx(FIRST, abs=1)
            stream.prompt("x" * 150)
            for _ in range(500):
                if abs(stream.style(black()).mean() - 150) <= 1:
                    break
            else:
                pytest.fail("the prompt never came")
            one = stream.style(black() + 10).mean()
            assert stream.style(black() + 10).mean() == pytest.approx(one + 10, abs=1)
            stream.reset()
            assert stream.style(black()).mean() == pytest.approx(150, abs=1)
            stream.strength(0.5)
            stream.reset()
            assert stream.style(black()).mean() == pytest.approx(75, abs=1)
            stream.steps(2)
            while not (stream.statistics and stream.statistics.steps == 2):
                stream.style(black())
                time.sleep(0.05)
            stream.strength(2)
            with pytest.raises(MirageError, match="amount must be from 0 to 1"):
                stream.style(black())

    with_server(tool, token="secret")


def test_offered_frames_come_back_with_their_numbers():
    def tool(server):
        with RemoteStream(server.url) as stream:
            stream.wait_until_ready(10)
            numbers, last = set(), 0
            for _ in range(200):
                last = stream.offer(black())
                if found := stream.newest():
                    numbers.add(found[0])
                if len(numbers) >= 3:
                    break
                asyncio.run(asyncio.sleep(0.01))
            assert len(numbers) >= 3
            assert numbers <= set(range(1, last + 1))

    with_server(tool)


def test_a_skipped_frame_is_sent_again():
    def tool(server):
        with RemoteStream(server.url) as stream:
            stream.wait_until_ready(10)
            server.device.sick = {0}  # its picture is not shown
            assert stream.style(black()).mean() == pytest.approx(FIRST, abs=1)

    with_server(tool)


def test_busy_wrong_and_absent_servers_are_one_line():
    def tool(server):
        with pytest.raises(MirageError, match="refused: the token is missing"):
            RemoteStream(server.url)
        with RemoteStream(f"{server.url}#token=secret"):
            with pytest.raises(MirageError, match="busy: all seats are taken"):
                RemoteStream(f"{server.url}#token=secret")

    with_server(tool, token="secret", seats=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(MirageError, match="no connection to the server"):
        RemoteStream(f"http://127.0.0.1:{port}/")


def test_a_server_that_stops_is_told_to_who_waits():
    stop = asyncio.Event()

    async def play():
        async with running(stop=stop) as server:
            stream = await asyncio.to_thread(RemoteStream, server.url)
            await asyncio.to_thread(stream.wait_until_ready, 10)
            stop.set()
            await asyncio.sleep(0.3)
            with pytest.raises(MirageError, match="ended: the server is stopping"):
                await asyncio.to_thread(stream.style, black())
            await asyncio.to_thread(stream.close)

    asyncio.run(play())


def test_the_script_restyles_a_file(tmp_path, capsys):
    import experiments.attach as script

    script = importlib.reload(script)  # flag names are shared among scripts
    out = tmp_path / "styled.mp4"

    def tool(server):
        flags.FLAGS(["attach", f"--server={server.url}", "--frames=5", f"--out={out}"])
        assert not script.run()

    with_server(tool, side=64)
    with av.open(str(out)) as video:
        assert len(list(video.decode(video=0))) == 5
    assert "5 frames" in capsys.readouterr().out
