"""The engine without a device and without a network."""

import threading

import numpy as np
import pytest
from live_fakes import FakeDevice, Keeper, Stage, prompt, source, wait_for

from mirage_jax.errors import MirageError
from mirage_jax.live.engine import BusyError, Engine
from mirage_jax.live.governor import Governor
from mirage_jax.live.limits import LiveLimits
from mirage_jax.live.mailbox import Mailbox
from mirage_jax.live.seats import Seats


def test_newest_frame_wins_and_drops_are_counted():
    box: Mailbox[int] = Mailbox()
    assert box.take() is None
    for item in range(5):
        box.put(item)
    assert (box.take(), box.take(), box.dropped) == (4, None, 4)


def test_seats_are_given_once_and_again_when_free():
    seats: Seats[object] = Seats(2)
    a, b, c = object(), object(), object()
    assert [seats.take(client) for client in (a, b, c)] == [0, 1, None]
    assert seats.free(a)
    assert not seats.free(a)
    assert seats.take(c) == 0
    assert seats.taken() == [(0, c), (1, b)]
    with pytest.raises(ValueError, match="count=0"):
        Seats(0)


def test_governor_skips_what_is_late_but_never_everything():
    governor = Governor(deadline=0.2, gather=0.01)
    assert not governor.too_late(0.2) and governor.too_late(0.21)
    governor.measured(0.5, 1, 0.0)  # a slow device: frames wait longer than that
    assert not governor.too_late(0.9) and governor.too_late(1.1)
    assert governor.delay(2, 2, 0.0) == 0  # nobody to wait for
    assert governor.delay(1, 2, 0.004) == pytest.approx(0.006)
    assert governor.delay(1, 2, 0.02) == 0


def test_governor_takes_fewer_steps_before_anything_is_skipped():
    governor = Governor(deadline=0.2, gather=0.01)

    def take(steps, seconds, now, frames):
        for _ in range(frames):
            governor.measured(seconds, steps, now)
        return governor.affordable(4, now)

    assert take(4, 0.3, 0.0, 2) == 4  # once or twice may be chance
    assert take(4, 0.1, 0.0, 1) == 4
    assert take(4, 0.3, 0.0, 3) == 2
    assert take(2, 0.21, 1.0, 3) == 1
    assert governor.affordable(1, 1.0) == 1
    assert take(1, 0.4, 2.0, 9) == 1  # there is nothing less
    assert governor.affordable(4, 61.0) == 4  # tried again
    assert take(4, 0.3, 61.0, 3) == 2


def test_every_client_has_its_own_stream():
    stage = Stage()
    (a, seen_a), (b, seen_b) = stage.join(), stage.join(100)
    for number in range(3):
        stage.engine.offer(a, source(1, number, 10.0 + number))
        stage.engine.offer(b, source(10, number))
        stage.engine.turn()
    assert seen_a.values == [1, 2, 3]
    assert seen_b.values == [110, 120, 130]
    assert [f.captured for f in seen_a.frames] == [10, 11, 12]
    assert [c for c in stage.device.calls if c[0] == "step"] == [("step", 0, 1)] * 3


def test_newest_frame_of_a_client_is_styled():
    stage = Stage()
    client, sink = stage.join()
    for number in range(4):
        stage.engine.offer(client, source(number, number))
    stage.engine.turn()
    assert [frame.sequence for frame in sink.frames] == [3]
    numbers = stage.engine.statistics(client)
    assert (numbers.received, numbers.styled, numbers.dropped) == (4, 1, 3)
    assert stage.engine.dropped() == 3


def test_a_seat_has_no_trace_of_its_last_client():
    stage = Stage(seats=1)
    first, seen = stage.join()
    stage.engine.offer(first, source(50))
    stage.engine.turn()
    stage.engine.offer(first, source(51))  # waits, and is never styled
    stage.engine.leave(first)
    second, seen_second = stage.join()
    stage.engine.turn()
    assert seen_second.frames == []
    stage.engine.offer(second, source(7))
    stage.engine.turn()
    assert seen.values == [50]
    assert seen_second.values == [7]


def test_a_client_that_leaves_during_a_step_gives_nothing_to_the_next():
    stage = Stage(seats=1)
    first, seen = stage.join()
    late = Keeper()
    step = stage.device.step

    def change_seats(images, arrived, steps):
        stage.engine.leave(first)
        stage.engine.join(late, prompt())
        return step(images, arrived, steps)

    stage.device.step = change_seats
    stage.engine.offer(first, source(50))
    stage.engine.turn()
    assert late.frames == []
    assert seen.values == [50]


def test_prompt_and_reset_reach_one_stream_before_its_next_frame():
    stage = Stage()
    (a, seen_a), (b, seen_b) = stage.join(), stage.join()

    def both():
        for client in (a, b):
            stage.engine.offer(client, source(1))
        stage.engine.turn()

    both()
    stage.engine.set_prompt(b, prompt(100))
    both()
    stage.engine.reset(a)
    both()
    assert seen_a.values == [1, 2, 1]
    assert seen_b.values == [1, 102, 103]
    assert stage.device.calls.count(("prompt", 1)) == 1
    assert stage.device.calls.count(("renew", 0)) == 1


def test_full_house_is_busy_until_somebody_leaves():
    stage = Stage(seats=1)
    client, _ = stage.join()
    with pytest.raises(BusyError, match="all seats"):
        stage.join()
    assert stage.engine.counters.refused == 1
    stage.engine.leave(client)
    stage.join()


def test_a_sick_picture_is_not_shown_and_only_its_stream_starts_anew():
    stage = Stage()
    (a, seen_a), (b, seen_b) = stage.join(), stage.join()
    for turn in range(3):
        stage.device.sick = {0} if turn == 1 else set()
        stage.engine.offer(a, source(1))
        stage.engine.offer(b, source(1))
        stage.engine.turn()
    assert seen_a.values == [1, 1]  # the second was withheld, the third is a first
    assert seen_b.values == [1, 2, 3]
    assert "reset" in seen_a.states[-1][1]
    assert stage.engine.statistics(a).reanchored == 1
    assert stage.engine.statistics(b).reanchored == 0


def test_late_frames_are_skipped():
    stage = Stage(deadline=0.2)
    client, sink = stage.join()
    stage.engine.offer(client, source(1))
    stage.clock.now += 1
    stage.engine.turn()
    assert sink.frames == []
    assert stage.engine.statistics(client).dropped == 1
    stage.engine.offer(client, source(5))
    stage.engine.turn()
    assert sink.values == [5]


def test_idle_clients_and_long_sessions_end():
    stage = Stage(idle=10, session=100)
    (_, seen_quiet), (busy, seen_busy) = stage.join(), stage.join()
    for _ in range(11):
        stage.clock.now += 1
        stage.engine.offer(busy, source(1))
    stage.engine.expire()
    assert seen_quiet.states[-1] == ("ended", "no frame for 10 s", False)
    assert stage.engine.clients == 1
    stage.clock.now += 100
    stage.engine.offer(busy, source(1))
    stage.engine.expire()
    assert seen_busy.states[-1] == ("ended", "over after 100 s", False)
    assert stage.engine.clients == 0


def test_statistics_count_frames_a_second():
    stage = Stage(seconds=0.05)
    client, _ = stage.join()
    for _ in range(60):
        stage.clock.now += 0.05
        stage.engine.offer(client, source(1))
        stage.engine.turn()
    assert stage.engine.statistics(client).fps == pytest.approx(10, abs=0.6)
    assert stage.engine.governor.step_seconds == pytest.approx(0.05)
    assert stage.engine.counters.frame_seconds == pytest.approx(60 * 0.05)


def test_time_that_a_frame_waits_counts_as_the_engines():
    stage = Stage(seconds=0.05)
    client, _ = stage.join()
    stage.engine.offer(client, source(1))
    stage.clock.now += 0.1
    stage.engine.turn()
    assert stage.engine.counters.frame_seconds == pytest.approx(0.15)
    assert stage.engine.counters.step_seconds == pytest.approx(0.05)


def test_frames_pass_through_while_warming():
    engine = Engine(FakeDevice(), LiveLimits())
    sink = Keeper()
    client = engine.join(sink, prompt())
    engine.offer(client, source(77, 4, 8.5))
    assert sink.states == [("warming", "starting", False)]
    [frame] = sink.frames
    assert (frame.styled, frame.sequence, frame.captured) == (False, 4, 8.5)
    engine.warm_up()
    assert [name for name, _, _ in sink.states] == ["warming", "warming", "ready"]
    engine.offer(client, source(5))
    engine.turn()
    assert sink.values == [77, 5]


@pytest.fixture
def running():
    """An engine with its thread."""
    engine = Engine(FakeDevice(), LiveLimits())
    engine.start()
    wait_for(lambda: engine.status == "ready")
    yield engine
    engine.stop()
    assert "device" not in [thread.name for thread in threading.enumerate()]


def test_the_thread_serves_and_stops(running):
    sink = Keeper()
    client = running.join(sink, prompt())
    for number in range(3):
        running.offer(client, source(1, number))
        wait_for(lambda: len(sink.frames) > number)  # noqa: B023
    assert sink.values == [1, 2, 3]
    running.stop()
    assert sink.states[-1] == ("ended", "the server is stopping", True)
    with pytest.raises(BusyError):
        running.join(Keeper(), prompt())


def test_a_device_error_ends_its_streams_and_the_engine_recovers(running, monkeypatch):
    monkeypatch.setattr("mirage_jax.live.engine._BACK_OFF", (0.01,))
    sink = Keeper()
    client = running.join(sink, prompt())
    running._device.error = RuntimeError("the device is gone")
    running.offer(client, source(200))
    wait_for(lambda: sink.states[-1][0] == "ended")
    assert "device failed" in sink.states[-1][1] and sink.states[-1][2]
    assert sink.frames == []
    wait_for(lambda: running.status == "ready")
    again = Keeper()
    client = running.join(again, prompt())
    running.offer(client, source(3))
    wait_for(lambda: again.frames)
    assert again.values == [3]
    assert running.counters.device_errors == 1


def test_what_the_user_can_cure_at_the_start_is_fatal():
    device = FakeDevice()
    told: list[MirageError] = []
    device.open_error = MirageError("no memory left")
    engine = Engine(device, LiveLimits(), on_fatal=told.append)
    engine.start()
    wait_for(lambda: told)
    engine.stop()
    assert str(told[0]) == "no memory left"
    assert device.calls == ["open"]


def test_a_step_that_hangs_shows():
    stage = Stage(seconds=30)
    client, _ = stage.join()
    step, seen = stage.device.step, []

    def slow(images, arrived, steps):
        result = step(images, arrived, steps)
        seen.append(stage.engine.stuck())
        return result

    stage.device.step = slow
    stage.engine.offer(client, source(1))
    stage.engine.turn()
    assert seen == [30]
    assert stage.engine.stuck() == 0


def test_random_traffic_never_mixes_streams():
    """Clients come, go, send and leave out frames; every picture is its owner's."""
    rng = np.random.default_rng(0)
    stage = Stage(seats=3)
    seated: list[tuple] = []
    for _ in range(400):
        if len(seated) < 3 and rng.random() < 0.3:
            client, sink = stage.join()
            seated.append((client, sink, rng.integers(1, 5), []))
        for entry in list(seated):
            client, sink, mark, expected = entry
            if rng.random() < 0.7:
                stage.engine.offer(client, source(mark))
                expected.append(mark)
            elif rng.random() < 0.2:
                stage.engine.leave(client)
                seated.remove(entry)
        stage.engine.turn()
        for _, sink, _, expected in seated:
            sums = np.cumsum(expected) % 256
            assert sink.values == sums.tolist()
