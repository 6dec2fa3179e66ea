"""Replicas behind a door; with Ray Serve itself by `make test-cluster`."""

import asyncio
import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import types
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from live_fakes import FakeDevice
from live_server import embed, settings

from mirage_jax.errors import MirageError
from mirage_jax.live import replicas
from mirage_jax.live.door import Door, Room
from mirage_jax.live.remote import RemoteStream
from mirage_jax.live.replicas import LiveReplica, run_replicas

ROOT = Path(__file__).parent.parent
A, B = "http://127.0.0.1:8766/", "http://127.0.0.1:8767/"


def test_the_door_leads_to_the_most_room_and_ready_servers_come_first():
    door = Door()
    assert door.choose() is None
    door.hear(Room(A, ready=True, free=1))
    door.hear(Room(B, ready=False, free=3))
    # A seat that was given away is not given away twice.
    assert [door.choose() for _ in range(5)] == [A, B, B, B, None]
    door.hear(Room(A, ready=True, free=1))
    door.hear(Room(B, ready=True, free=2))
    assert door.choose() == B


def test_a_server_that_says_nothing_is_gone():
    now = [0.0]
    door = Door(lambda: now[0])
    door.hear(Room(A, ready=True, free=9))
    now[0] = 4.0
    door.hear(Room(B, ready=True, free=1))
    assert door.choose() == A
    now[0] = 6.0
    assert door.choose() == B
    assert [room.url for room in door.rooms()] == [B]


class Answer:
    """In place of Starlette's, which comes with Ray Serve."""

    def __init__(self, content=None, status_code=200, headers=None):
        self.content, self.status, self.headers = content, status_code, headers


def test_what_the_door_answers(monkeypatch):
    responses = types.ModuleType("starlette.responses")
    for name in ("Response", "JSONResponse", "PlainTextResponse"):
        setattr(responses, name, Answer)
    monkeypatch.setitem(sys.modules, "starlette", types.ModuleType("starlette"))
    monkeypatch.setitem(sys.modules, "starlette.responses", responses)
    door = Door()

    def answer(path, query=""):
        url = types.SimpleNamespace(path=path, query=query)
        return asyncio.run(door(types.SimpleNamespace(url=url)))

    nowhere = answer("/")
    assert (nowhere.status, nowhere.headers["Refresh"]) == (503, "3")
    assert "All seats are taken" in nowhere.content
    assert answer("/healthz").status == 503
    door.hear(Room(A, ready=True, free=2))
    there = answer("/", "transport=webrtc")
    assert (there.status, there.headers["Location"]) == (307, A + "?transport=webrtc")
    assert there.headers["Cache-Control"] == "no-store"
    healthy = answer("/healthz")
    assert healthy.status == 200
    assert healthy.content["replicas"] == healthy.content["free"] == 1
    assert answer("/styles.json").status == 404


def fake_serve(monkeypatch, door):
    """As much of Ray Serve as a replica uses: its handle of the door."""

    class Hear:
        async def remote(self, room):
            door.hear(room)

    serve = types.ModuleType("ray.serve")
    handle = types.SimpleNamespace(hear=Hear())
    serve.get_deployment_handle = lambda name, app: handle  # type: ignore[attr-defined]
    ray = types.ModuleType("ray")
    ray.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)


def test_replicas_take_ports_of_their_own_and_tell_the_door(monkeypatch, tmp_path):
    door = Door()
    fake_serve(monkeypatch, door)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(replicas, "log_to_stderr", lambda form: None)
    monkeypatch.setattr(replicas, "keep_programs", lambda: None)
    monkeypatch.setattr(replicas, "load_model", lambda name: None)
    monkeypatch.setattr(replicas, "encode_text", embed)
    monkeypatch.setattr(
        replicas,
        "SeatedStreams",
        lambda model, config, seed: FakeDevice(config.batch, side=config.height),
    )
    told = settings(port=18_765, replicas=2, token="t" * 16, cpu_size="64")

    async def opened():
        replica = LiveReplica.__new__(LiveReplica)
        await replica.__init__(told)  # type: ignore[misc]
        await replica.check_health()
        return replica

    async def until(condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    def styled(url, token):
        with RemoteStream(f"{url}#token={token}") as stream:
            return stream.style(np.full((64, 64, 3), 50, np.uint8))

    async def play():
        both = [await opened() for _ in range(2)]
        await until(lambda: [r.ready for r in door.rooms()] == [True, True])
        urls = [room.url for room in door.rooms()]
        assert len(set(urls)) == 2
        for url in urls:
            picture = await asyncio.to_thread(styled, url, told.token)
            assert picture.shape == (64, 64, 3)
            with pytest.raises(MirageError, match="token is missing or wrong"):
                await asyncio.to_thread(styled, url, "guess")
        # One ends: its port is free for the one that comes in its place.
        await both[0].__del__()
        with pytest.raises(RuntimeError, match="has ended"):
            await both[0].check_health()
        await both[1].check_health()
        both[0] = await opened()
        assert both[0]._url == urls[0]
        for replica in both:
            await replica.__del__()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replicas": 0}, "replicas 0 is out of range"),
        ({"port": 0}, "need a port that is known"),
        ({"record": "out.mp4"}, "record belongs to one server"),
        ({"source": "pattern"}, "source belongs to one server"),
        ({"token": "short"}, "token is none: take 16 to 128"),
    ],
)
def test_settings_that_replicas_cannot_have(change, message):
    with pytest.raises(MirageError, match=message):
        settings(**({"replicas": 2, "port": 8765} | change))


def test_without_ray_replicas_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MirageError, match=r"pip install '.\[cluster\]'"):
        run_replicas(settings(replicas=2, port=8765))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["cluster"]


def test_too_few_gpus_and_addresses_that_nobody_finds(monkeypatch):
    def cluster(gpus, nodes):
        return types.SimpleNamespace(
            cluster_resources=lambda: {"CPU": 8.0, "GPU": gpus},
            nodes=lambda: [{}] * nodes,
        )

    two = settings(replicas=2, port=8765)
    assert replicas._gpus_each(cluster(0.0, 1), two) == 0
    assert replicas._gpus_each(cluster(2.0, 1), two) == 1
    with pytest.raises(MirageError, match=r"replicas 2 for 1 GPU\(s\)"):
        replicas._gpus_each(cluster(1.0, 1), two)
    with pytest.raises(MirageError, match=r"give --config.host=0\.0\.0\.0"):
        replicas._gpus_each(cluster(2.0, 2), two)


@pytest.mark.parametrize(
    ("said", "message", "reason"),
    [
        ("Failed to bind to address", "", "cannot listen at 127.0.0.1:8765: choose"),
        ("deploying failed", "x\nmirage.MirageError: no weights\n", "no weights"),
        ("deploying failed\nat all", "", "did not start: deploying failed"),
    ],
)
def test_why_nothing_started_is_one_line(said, message, reason):
    deployment = types.SimpleNamespace(message=message)
    streams = types.SimpleNamespace(deployments={"LiveReplica": deployment})
    status = types.SimpleNamespace(applications={"mirage-streams": streams})
    serve = types.SimpleNamespace(status=lambda: status)
    got = replicas._reason(serve, settings(replicas=2, port=8765), said)
    assert reason in got
    assert "\n" not in got


def located(door):
    """Where the door sends a browser, without going there; None if nowhere yet."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    opener = urllib.request.build_opener(Stay, urllib.request.ProxyHandler({}))
    try:
        opener.open(door, timeout=10)
    except urllib.error.HTTPError as error:
        return error.headers["Location"]
    except OSError:
        return None
    return None


@pytest.mark.cluster
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None
    or importlib.util.find_spec("starlette") is None,
    reason="needs Ray Serve: `make test-cluster` installs it",
)
def test_two_replicas_on_ray(monkeypatch):
    """A stream each, side by side; then SIGTERM, and both streams are told."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # one GPU would be too few
    process = subprocess.Popen(
        [
            sys.executable,
            "main.py",
            "--config=configs/live.py",
            "--config.cpu_size=64",
            "--config.replicas=2",
            "--config.port=18850",
            "--config.browser=False",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killer = threading.Timer(500, process.kill)  # Ray starts for long where others work
    killer.start()
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        page = next(filter(None, (re.match(r"page +(\S+)", line) for line in lines)))[1]
        urls = [None, None]
        while None in urls or urls[0] == urls[1]:
            urls = urls[1:] + [located(page)]  # a seat is given away for a second
            time.sleep(0.3)
        with RemoteStream(urls[0]) as one, RemoteStream(urls[1]) as other:
            for stream in (one, other):
                stream.wait_until_ready()
            for value in (50, 150, 250):
                source = np.full((64, 64, 3), value, np.uint8)
                assert one.style(source).shape == other.style(source).shape
            # Both seats are taken now, so the door leads nowhere.
            time.sleep(2.5)
            assert located(page) is None
            process.send_signal(signal.SIGTERM)
            for stream in (one, other):
                with pytest.raises(MirageError, match="the server is stopping"):
                    while True:
                        stream.style(source)
        rest = "".join(lines)
        assert process.wait(60) == 0, rest
        assert "Traceback" not in rest
    finally:
        killer.cancel()
        process.kill()
