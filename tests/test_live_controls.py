"""Strength of the style and steps a frame, from a client's wish to its pictures."""

import asyncio

import pytest
from live_fakes import Keeper, Stage, prompt, source, wait_for
from live_server import FIRST, brightness, running

from mirage_jax.live.protocol import (
    Blend,
    Prompt,
    Reset,
    State,
    Statistics,
    Steps,
    Strength,
    StyledPicture,
)


def test_strength_mixes_in_the_source_for_all_prompts_that_come_and_after_a_reset():
    stage = Stage()
    (a, seen_a), (b, seen_b) = stage.join(100), stage.join(100)

    def both():
        for client in (a, b):
            stage.engine.offer(client, source(1))
        stage.engine.turn()

    both()
    stage.engine.set_strength(a, 0.5)
    both()
    stage.engine.set_prompt(a, prompt(40))
    both()
    stage.engine.reset(a)
    both()
    # The stream itself knows nothing of it: 102 and 43 are what it made.
    assert seen_a.values == [101, (102 + 1) // 2, (43 + 1) // 2, (41 + 1) // 2]
    assert seen_b.values == [101, 102, 103, 104]


def test_a_client_joins_with_the_strength_that_it_is_given():
    stage = Stage()
    sink = Keeper()
    client = stage.engine.join(sink, prompt(100), 0.25)
    stage.engine.offer(client, source(1))
    stage.engine.turn()
    assert sink.values == [1 + (101 - 1) // 4]


def turn(stage, *clients):
    """One turn; the steps that it took."""
    for client in clients:
        stage.engine.offer(client, source(1))
    stage.engine.turn()
    assert stage.engine.steps == stage.device.used[-1]
    return stage.engine.steps


def turn_until(stage, steps, *clients):
    wait_for(lambda: turn(stage, *clients) == steps)


def test_the_most_eager_client_decides_how_many_steps_all_take():
    stage = Stage()
    (a, _), (b, _) = stage.join(), stage.join()
    assert turn(stage, a, b) == 1
    stage.engine.set_steps(b, 2)
    turn_until(stage, 2, a, b)
    stage.engine.set_steps(a, 4)
    turn_until(stage, 4, a, b)
    stage.engine.set_steps(a, 1)
    assert turn(stage, a, b) == 2  # what is compiled is there at once
    assert turn(stage, a) == 2  # also while the other has no frame
    stage.engine.leave(b)
    assert turn(stage, a) == 1


def test_frames_go_on_while_other_steps_are_compiled():
    stage = Stage()
    client, sink = stage.join()
    stage.device.compiled.clear()
    stage.engine.set_steps(client, 4)
    assert [turn(stage, client) for _ in range(3)] == [1, 1, 1]
    stage.device.compiled.set()
    turn_until(stage, 4, client)
    assert sink.values == list(range(1, len(sink.frames) + 1))


def test_a_slow_device_takes_fewer_steps_than_were_asked_for():
    stage = Stage(deadline=0.2)
    client, sink = stage.join()
    stage.engine.set_steps(client, 4)
    turn_until(stage, 4, client)
    stage.device.seconds = 0.3
    turn_until(stage, 1, client)
    assert stage.device.used[-1] == 1 and 2 in stage.device.used
    assert stage.engine.statistics(client).dropped == 0
    assert sink.values == list(range(1, len(sink.frames) + 1))
    # When it is quick again, so are more steps.
    stage.device.seconds = 0.01
    assert turn(stage, client) == 1
    stage.clock.now += 60
    assert turn(stage, client) == 4


def test_an_engine_has_not_stopped_while_something_is_compiled():
    stage = Stage()
    client, _ = stage.join()
    stage.device.compiled.clear()
    stage.engine.set_steps(client, 4)
    turn(stage, client)
    assert not stage.engine.stop(0)
    stage.device.compiled.set()
    wait_for(lambda: stage.engine.stop(0))


def test_steps_that_cannot_be_compiled_are_told_once_and_frames_go_on():
    stage = Stage()
    (a, seen_a), (b, seen_b) = stage.join(), stage.join()
    stage.device.prepare_error = RuntimeError("no memory")
    stage.engine.set_steps(b, 4)
    turn(stage, a, b)
    wait_for(lambda: "4 steps could not be compiled" in seen_b.states[-1][1])
    told = len(seen_b.states)
    stage.device.prepare_error = None
    assert [turn(stage, a, b) for _ in range(3)] == [1, 1, 1]
    assert (len(seen_b.states), len(seen_a.states)) == (told, 1)
    stage.engine.set_steps(a, 2)  # others can still be had
    turn_until(stage, 2, a, b)


def test_time_of_a_step_is_measured_anew_when_its_passes_change():
    stage = Stage(seconds=0.1)
    client, _ = stage.join()
    for _ in range(5):
        turn(stage, client)
    stage.engine.set_steps(client, 2)
    turn_until(stage, 2, client)
    stage.device.seconds = 0.4
    stage.engine.set_steps(client, 1)
    turn(stage, client)
    assert stage.engine.governor.step_seconds == pytest.approx(0.4)


def test_strength_holds_for_what_comes_and_begins_as_the_config_says():
    async def play():
        async with running(strength=0.5) as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")

            async def shown_until(value):
                async with asyncio.timeout(10):
                    shown = -9
                    while abs(shown - value) > 1:
                        await viewer.show(0)
                        shown = brightness(await viewer.next(StyledPicture))

            await shown_until(FIRST / 2)
            await viewer.send(Prompt("x" * 100))
            await shown_until(50)
            await viewer.send(Strength(0.1))
            await shown_until(10)
            await viewer.send(Reset())
            await viewer.send(Blend("x" * 100, "y" * 200, 1.0))
            await shown_until(20)
            await viewer.send(Strength(1))
            await shown_until(200)

    asyncio.run(play())


def test_steps_are_those_that_the_server_offers():
    async def play():
        async with running(most_steps=2) as server, server.viewer() as viewer:
            await viewer.next(State, state="ready")
            async with server.http.get(server.url + "styles.json") as answer:
                listed = await answer.json()
            assert (listed["steps"], listed["step_choices"]) == (1, [1, 2])
            await viewer.send(Steps(4))
            told = await viewer.next(State, state="ready")
            assert told.detail.startswith("this server takes 1 or 2 steps")
            await viewer.send(Steps(2))
            async with asyncio.timeout(10):
                while server.engine.steps != 2:
                    await viewer.show(0)
                    await viewer.next(StyledPicture)
            assert (await viewer.next(Statistics)).steps in (1, 2)
            assert (await viewer.next(Statistics)).steps == 2

    asyncio.run(play())
