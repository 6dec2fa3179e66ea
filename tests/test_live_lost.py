"""A client whose camera is lost: its stream runs free, and follows the next source."""

import asyncio
import contextlib
import time

import numpy as np
import pytest
from live_fakes import SIDE, Keeper, Stage, prompt, source
from live_server import FIRST, running
from toy_model import MODEL, params
from toy_model import settings as toy_settings

from mirage_jax.live.device import SeatedStreams
from mirage_jax.live.pictures import decode_picture
from mirage_jax.live.protocol import FreePicture, State, Statistics, StyledPicture
from mirage_jax.live.remote import RemoteStream
from mirage_jax.weights import Model

LOST = "the camera is lost: the stream goes on by itself"


class Timed(Keeper):
    """A sink that knows when its pictures came."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.when = clock, []

    def frame(self, frame):
        super().frame(frame)
        self.when.append(self.clock())

    def times(self, free):
        pairs = zip(self.when, self.frames, strict=True)
        return np.array([when for when, frame in pairs if frame.free is free])


def join(stage):
    sink = Timed(stage.clock)
    return stage.engine.join(sink, prompt()), sink


def play(stage, seconds, *cameras):
    """The engine takes its turns while cameras, (client, interval), send frames."""
    end = stage.clock.now + seconds
    coming = [stage.clock.now for _ in cameras]
    while stage.clock.now < end:
        for place, (client, interval) in enumerate(cameras):
            while coming[place] <= stage.clock.now:
                stage.engine.offer(client, source(1, client.received + 1))
                coming[place] += interval
        stage.engine.expire()
        if (delay := stage.engine._delay()) == 0:
            stage.engine.turn()
        else:
            until = min([stage.clock.now + delay, end, *coming])
            stage.clock.now = max(until, stage.clock.now + 1e-6)


def alone(**limits):
    """A stage with a client whose camera had 10 frames a second for two seconds."""
    stage = Stage(**{"lost": 1.0} | limits)
    client, sink = join(stage)
    play(stage, 2, (client, 0.1))
    return stage, client, sink


@pytest.mark.parametrize(("camera", "shown"), [(0.1, 0.1), (0.004, 1 / 30)])
def test_a_free_run_keeps_the_pace_of_its_client_up_to_30_a_second(camera, shown):
    stage = Stage(lost=1.0)
    client, sink = join(stage)
    play(stage, 2, (client, camera))
    before, last = stage.engine.statistics(client), sink.frames[-1]
    play(stage, 5)
    times = sink.times(free=True)
    assert times[0] == pytest.approx(sink.times(free=False)[-1] + 1, abs=0.01)
    np.testing.assert_allclose(np.diff(times), shown, rtol=0.01)
    assert len(times) == pytest.approx((4 + camera) / shown, abs=1.5)
    assert {frame.sequence for frame in sink.frames if frame.free} == {last.sequence}
    after = stage.engine.statistics(client)
    counts = ("received", "styled", "dropped")  # of sources, which there are none of
    assert all(getattr(after, name) == getattr(before, name) for name in counts)
    assert after.fps == pytest.approx(1 / shown, rel=0.1)
    assert stage.engine.counters.free == len(times)
    stage.engine.offer(client, source(1, 77))
    play(stage, 0.01)
    assert (sink.frames[-1].sequence, sink.frames[-1].free) == (77, False)
    told = [detail for _, detail, _ in sink.states if detail]
    assert told == [LOST, "the camera is back"]


def test_without_free_runs_the_last_picture_stays():
    stage, client, sink = alone(lost=np.inf)
    play(stage, 5)
    assert len(sink.frames) == client.received
    assert sink.states == [("ready", "", False)]


@pytest.mark.parametrize("late", [0.0, 0.04])
@pytest.mark.parametrize("other", [0.03, 0.1, 0.12, 0.5])
def test_another_client_is_as_quick_as_beside_a_picture_that_is_held(other, late):
    def beside(lost):
        stage = Stage(seconds=0.02, lost=lost)
        (a, seen_a), (b, seen_b) = join(stage), join(stage)
        play(stage, 2, (a, 0.1), (b, other))
        play(stage, late)
        begin, steps = len(seen_b.frames), len(stage.device.used)
        play(stage, 10, (b, other))
        assert stage.engine.statistics(b).dropped == 0
        return len(seen_b.frames) - begin, len(stage.device.used) - steps, seen_a

    pictures, steps, _ = beside(np.inf)
    same, more, seen = beside(1.0)
    assert same >= pictures
    rate = len(seen.times(free=True)) / 9
    if other < 0.15:  # often enough for the free run: it takes no step for itself
        assert more <= steps + 2
        assert rate == pytest.approx(min(10, 1 / other), rel=0.05)
    else:
        assert rate == pytest.approx(10, rel=0.15)


def test_a_free_run_has_its_clients_prompt_and_strength():
    stage, client, sink = alone()
    stage.engine.set_prompt(client, prompt(20))
    stage.engine.set_strength(client, 0.5)
    play(stage, 2)
    assert sink.frames[-1].free
    # The strength is between it and the last source, which was 1.
    assert sink.values[-1] == (client.styled + 20 + 1) // 2


@pytest.mark.parametrize("what", ["reset", "sick"])
def test_a_stream_that_starts_anew_waits_for_sources(what):
    stage, client, sink = alone()
    play(stage, 2)
    if what == "reset":
        stage.engine.reset(client)
    stage.device.sick = {0} if what == "sick" else set()
    play(stage, 0.2)
    before = len(sink.frames)
    play(stage, 5)
    assert len(sink.frames) == before
    assert stage.engine.statistics(client).dropped == 0
    play(stage, 1, (client, 0.1))
    assert not sink.frames[-1].free
    play(stage, 2)
    assert sink.frames[-1].free


def test_who_sends_few_pictures_or_waits_for_an_answer_is_not_lost():
    stage = Stage(lost=1.0, deadline=10.0)
    (one, seen_one), (slow, seen_slow) = join(stage), join(stage)
    stage.engine.offer(one, source(1))
    play(stage, 20, (slow, 2.0))
    assert (len(seen_one.frames), len(seen_slow.frames)) == (1, 10)
    play(stage, 8)
    assert np.diff(seen_slow.times(free=True)) == pytest.approx([2.0])
    stage, client, sink = alone(deadline=10.0)
    stage.device.seconds = 5
    stage.engine.offer(client, source(1))
    stage.engine.turn()
    play(stage, 0.9)
    assert not sink.times(free=True).size


def test_a_free_run_ends_when_its_client_is_idle():
    stage, _, sink = alone(idle=10)
    play(stage, 20)
    assert sink.states[-1] == ("ended", "no frame for 10 s", False)
    assert sink.when[-1] < sink.times(free=False)[-1] + 10.2


def test_a_camera_that_is_back_during_a_step_is_the_next_that_is_seen():
    stage, client, sink = alone()
    play(stage, 2)
    step, before = stage.device.step, len(sink.frames)

    def come_back(images, arrived, steps):
        stage.device.step = step
        stage.engine.offer(client, source(1, 99))
        return step(images, arrived, steps)

    stage.device.step = come_back
    play(stage, 0.2)
    assert (sink.frames[before].sequence, sink.frames[before].free) == (99, False)


class Logged(SeatedStreams):
    """The toy model's streams, which keep what went through them."""

    def __init__(self):
        super().__init__(Model(MODEL, params(), "0" * 64), toy_settings(batch=2))
        self.log = []

    def step(self, images, arrived, steps):
        styled, healthy = super().step(images, arrived, steps)
        self.log.append((images[0], arrived[0], styled[0]))
        return styled, healthy


@contextlib.asynccontextmanager
async def showing(viewer, value):
    """A camera that sends for the time of a `with`; gives what was answered."""
    answered: list[int] = []

    async def send():
        while True:
            await viewer.show(value, len(answered))
            await viewer.next(StyledPicture, sequence=len(answered))
            answered.append(len(answered))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(send())
    try:
        yield answered
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_camera_is_lost_for_seconds_and_comes_back_on_a_websocket():
    device = Logged()

    async def play():
        async with (
            contextlib.AsyncExitStack() as stack,
            running(device=device, lost="free") as server,
            server.viewer() as a,
        ):
            await a.next(State, state="ready")  # it has the first seat
            b = await stack.enter_async_context(server.viewer())
            await b.next(State, state="ready")
            async with showing(b, 120) as others:
                async with showing(a, 60) as own:
                    while len(own) < 8:
                        await asyncio.sleep(0.02)
                await a.next(State, state="ready", detail=LOST)
                before = len(others)
                free = [await a.next(FreePicture) for _ in range(20)]
                assert len(others) > before + 5
                steps = len(device.log)
                await a.show(200, 9000)
                answer = await a.next(StyledPicture)
                assert answer.sequence == 9000
                await a.next(Statistics)
                numbers = await a.next(Statistics)
            assert numbers.received == numbers.styled
            images = np.array([decode_picture(one.data, 1 << 20) for one in free], int)
            # It settles, as its noise stays, but is not one picture again and again.
            assert np.abs(np.diff(images, axis=0)).mean((1, 2, 3)).max() > 1
            # What is shown is the picture of the step that had the new source.
            shown = decode_picture(answer.data, 1 << 20)
            made = np.array([styled for _, _, styled in device.log[steps:]], int)
            place = int(np.abs(made - shown).mean((1, 2, 3)).argmin())
            sent, arrived, _ = device.log[steps + place]
            assert arrived
            assert sent.mean() == pytest.approx(200, abs=2)
            async with server.http.get(server.url + "metrics") as found:
                text = await found.text()
            count = server.engine.counters.free
            assert count >= len(free)
            assert f"mirage_live_frames_free_total {count}\n" in text
            assert "mirage_live_frames_dropped_total 0\n" in text

    asyncio.run(play())


def test_a_tool_sees_the_free_run_under_its_last_number():
    def tool(server):
        black = np.zeros((SIDE, SIDE, 3), np.uint8)
        with RemoteStream(server.url) as stream:
            stream.wait_until_ready(10)
            for _ in range(4):
                stream.style(black)
            end = time.monotonic() + 10
            while (found := stream.newest()) is None:
                assert time.monotonic() < end
                time.sleep(0.02)
            assert found[0] == 4
            assert stream.state.detail == LOST
            # A free picture is not taken for the answer.
            shown = stream.style(black + 20).mean()
            assert shown == pytest.approx(FIRST + 20, abs=1)

    async def play():
        async with running(lost="free") as server:
            await asyncio.to_thread(tool, server)

    asyncio.run(play())
