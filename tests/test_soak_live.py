"""The parts of the soak, short, and that what they look for is found."""

import asyncio
import dataclasses
import importlib
import os
import threading

import aiohttp
import numpy as np
import pytest
from absl import flags
from live_fakes import FakeDevice
from live_server import running

from experiments.coded_client import CODES, SIDE, code_of, coded_picture
from experiments.hostile_clients import Hostile, hostile_clients, refused_rightly
from experiments.live_child import Sample, live_child
from mirage_jax.results import Result

TOKEN = "secret"


class Echo(FakeDevice):
    """Pictures come back as they came, to the seat before where they are `mixed`."""

    mixed = 0

    def step(self, images, arrived, steps):
        super().step(images, arrived, steps)
        return np.roll(images, self.mixed, axis=0), np.ones(self.seats, bool)


class Child:
    """A server in this process, in place of the soak's process."""

    def __init__(self, server):
        self.url, self.token, self.server = server.url, TOKEN, server

    async def sample(self):
        return Sample(
            memory=0.0,
            threads=threading.active_count(),
            files=len(os.listdir("/proc/self/fd")),
            tasks=len(asyncio.all_tasks()),
            clients=self.server.engine.clients,
        )


@pytest.fixture
def soak(monkeypatch):
    import experiments.soak_live as script

    script = importlib.reload(script)  # flag names are shared among scripts
    short = ["--fair_seconds=2", "--silence=0.3", "--visits=24", "--hostile=48"]
    flags.FLAGS(["soak_live", "--clients=8", "--rate=50", *short])
    monkeypatch.setattr("live_server.FakeDevice", Echo)
    return script


def played(*parts, **changes):
    """Results of these parts on a server in this process, by name."""

    async def play():
        limits = {"connections": 32} | changes
        async with (
            running(TOKEN, seats=8, side=SIDE, **limits) as server,
            # Nor does an idle connection stay for the next one.
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True)
            ) as http,
        ):
            child = Child(server)
            return [result for part in parts for result in await part(http, child)]

    return {result.name: result.value for result in asyncio.run(play())}


def test_nobody_starves_and_nobody_sees_another(soak):
    found = played(soak.fair, soak.camera_lost)
    assert found["fair/most_over_fewest"] <= 1.2
    assert found["fair/fewest"] > 5
    assert found["fair/foreign"] == found["camera_lost/foreign"] == 0
    assert found["camera_lost/pictures_beside"] >= 1
    assert found["camera_lost/pictures_after"] > 3


def test_a_picture_of_another_client_shows(soak, monkeypatch):
    monkeypatch.setattr(Echo, "mixed", 1)
    found = played(soak.fair)
    assert found["fair/foreign"] > 5


def test_visits_and_hostile_clients_leave_nothing(soak):
    found = played(soak.fair, soak.visits, soak.hostile)
    assert found["visits/clients"] == 24
    assert found["hostile/not_refused"] == 0
    assert found["hostile/pictures_after"] > 3
    for part in ("visits", "hostile"):
        for name in ("threads", "tasks", "files"):
            assert found[f"{part}/{name}_left"] <= 0, (part, name)


def test_an_answer_that_is_not_the_right_one_shows(monkeypatch):
    monkeypatch.setattr("experiments.hostile_clients._SECONDS", 0.3)
    kinds = hostile_clients(frame_bytes=2 << 20, frame_pixels=4096)

    async def play():
        async with running(TOKEN, seats=1) as server:
            for kind, right in (
                (kinds["wrong_token"], True),
                (dataclasses.replace(kinds["wrong_token"], answer=1000), False),
                (kinds["foreign_host"], True),
                (dataclasses.replace(kinds["foreign_host"], answer=403), False),
                (Hostile(1008), False),  # it does nothing wrong, and nobody closes
            ):
                got = await refused_rightly(server.http, server.url, TOKEN, kind)
                assert got is right, kind

    asyncio.run(play())


def test_codes_are_read_back_through_noise():
    random = np.random.default_rng(0)
    for number in range(len(CODES)):
        image = coded_picture(number) // 2 + 50  # flat, as a style may leave it
        noisy = image + random.normal(0, 30, image.shape)
        assert code_of(noisy.clip(0, 255).astype(np.uint8)) == number


def test_what_should_not_be_is_named(soak):
    good = {
        "fair/most_over_fewest": 1.1,
        "fair/fewest": 9,
        "visits/memory_left": 1,
        "hostile/memory_left": -3,
        "growth/memory": 0.5,
        "growth/pictures": 9,
        "killed/pictures": 9,
        "fair/foreign": 0,
        "visits/tasks_left": 0,
        "growth/threads": 0,
        "exit_status": 0,
    }

    def wrong(**changes):
        values = good | {name.replace("__", "/"): v for name, v in changes.items()}
        return soak.wrong([Result(name, value, "") for name, value in values.items()])

    assert wrong() == []
    for bad in (
        {"fair__most_over_fewest": 1.3},
        {"fair__fewest": 0},
        {"fair__foreign": 1},
        {"growth__memory": 40},
        {"growth__threads": 1},
        {"visits__tasks_left": 2},
        {"exit_status": -9},
    ):
        [said] = wrong(**bad)
        assert next(iter(bad)).replace("__", "/") in said


@pytest.mark.slow
def test_a_killed_server_comes_back_and_its_client_too(soak):
    async def play():
        # As the page's tests have it, whose compiled programs are found here.
        settings = {"prompt": soak._PROMPT, "cpu_size": SIDE, "cpu_seats": 2}
        async with live_child(**settings) as child, aiohttp.ClientSession() as http:
            sample = await child.sample()
            assert sample.memory > 50
            assert min(sample.threads, sample.files, sample.tasks) > 0
            assert sample.clients == 0
            results = await soak.killed(http, child)
            assert await child.stop() == 0
            assert "Traceback" not in child.log
            return {result.name: result.value for result in results}

    found = asyncio.run(play())
    assert found["killed/pictures"] >= 1
    assert found["killed/foreign"] == 0
    assert found["killed/noticed"] < 1000 * found["killed/styled_again"]
