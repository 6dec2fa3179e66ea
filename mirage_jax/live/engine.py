"""One thread owns the device and serves all clients, whatever brought them.

    engine = Engine(SeatedStreams(model, config), LiveLimits())
    engine.start()
    client = engine.join(sink, prompt)
    engine.offer(client, frame)        # the sink gets the styled frame

Every client has a stream of its own. In a turn the newest frames of all clients go
through the device together; what nobody could take in time is skipped, never queued.
While a client's camera is lost its stream can go on without a source (`FreeRun`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.errors import MirageError
from mirage_jax.live.client import (
    Client,
    ClientStatistics,
    Sink,
    SourceFrame,
    StyledFrame,
)
from mirage_jax.live.device import Device
from mirage_jax.live.governor import Governor
from mirage_jax.live.limits import Counters, LiveLimits
from mirage_jax.live.seats import Seats
from mirage_jax.live.steps import Steps
from mirage_jax.live.turn import Turn
from mirage_jax.strength import with_strength

_LOG = logging.getLogger(__name__)
_TICK = 0.5  # seconds between looks for clients to be closed
_BACK_OFF = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between tries to open the device
_CAMERA_LOST = "the camera is lost: the stream goes on by itself"
_CAMERA_BACK = "the camera is back"


class BusyError(Exception):
    """All seats are taken, or the engine is stopping."""


class Engine:
    """Clients in, styled frames out.

    Args:
      device: the streams; from now on only the engine's thread may use it.
      limits: see there.
      on_fatal: called with the error when the device cannot be opened at the start
        for a reason that the user can cure. The engine has then stopped.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        device: Device,
        limits: LiveLimits,
        on_fatal: Callable[[MirageError], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.height, self.width = device.height, device.width
        self.steps = device.steps  # passes of the newest frame
        self.counters = Counters()
        self.governor = Governor(limits.deadline, limits.gather)
        self.status, self.detail = "warming", "starting"
        self._device, self._limits = device, limits
        self._on_fatal, self._clock = on_fatal, clock
        self._seats: Seats[Client] = Seats(device.seats)
        self._steps = Steps(device, self._without)
        self._changed = threading.Condition()
        self._stopping = False
        self._failures = 0  # of the device, one after the other
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    # Called from any thread.

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Finishes the turn that runs, tells the clients, ends the thread.

        Returns:
          False if a thread still works, which a compilation does for long.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._end_all("the server is stopping", retry=True)
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not (self._thread.is_alive() or self._steps.compiling)

    def join(
        self, sink: Sink, prompt: Float[np.ndarray, " 384"], strength: float = 1.0
    ) -> Client:
        """A seat with a fresh stream.

        Raises:
          BusyError: there is none.
        """
        steps, lost = self._device.steps, self._limits.lost
        client = Client(sink, prompt, strength, steps, lost, self._clock())
        with self._changed:
            if self._stopping or self._seats.take(client) is None:
                self.counters.refused += 1
                raise BusyError("all seats are taken")
            self.counters.joined += 1
            # Under the lock, so that no later state overtakes this one.
            sink.state(self.status, self.detail, retry=False)
        return client

    def leave(self, client: Client) -> None:
        """Frees the seat; no frame comes after it but one that is on its way."""
        with self._changed:
            if self._seats.free(client):
                self._retire(client)

    def offer(self, client: Client, frame: SourceFrame) -> None:
        """The client's next frame; one that still waits is dropped for it.

        While the engine warms up the frame comes back as it is.
        """
        now = self._clock()
        with self._changed:
            client.received += 1
            self.counters.received += 1
            client.last_frame = now
            warming = self.status != "ready"
            if not warming:
                client.mailbox.put(dataclasses.replace(frame, arrived=now))
                self._changed.notify()
        if warming:
            client.sink.frame(
                StyledFrame(frame.sequence, frame.captured, frame.image, styled=False)
            )

    def set_prompt(self, client: Client, prompt: Float[np.ndarray, " 384"]) -> None:
        """The client's next frame follows this prompt."""
        with self._changed:
            client.prompt, client.new_prompt = prompt, True

    def set_strength(self, client: Client, strength: float) -> None:
        """From its next picture on, so much of the style: 0 to 1."""
        with self._changed:
            client.strength = strength

    def set_steps(self, client: Client, steps: int) -> None:
        """Its frames take at least so many steps, once these are compiled."""
        with self._changed:
            client.steps = steps

    def reset(self, client: Client) -> None:
        """The client's stream forgets all frames before the next one."""
        with self._changed:
            client.renew = True
            client.free_run.forget()

    def statistics(self, client: Client) -> ClientStatistics:
        return client.statistics(self._clock())

    @property
    def clients(self) -> int:
        return len(self._seats.taken())

    @property
    def seats(self) -> int:
        return len(self._seats)

    def dropped(self) -> int:
        """Frames dropped so far, of clients that left and of those that are here."""
        with self._changed:
            here = sum(client.dropped for _, client in self._seats.taken())
            return self.counters.dropped + here

    def stuck(self) -> float:
        """Seconds that the step takes which runs now; 0 between steps."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    # The device's thread.

    def _run(self) -> None:
        opened = False
        while not self._stopping:
            try:
                self.warm_up()
                opened = True
                self._serve()
            except Exception as error:
                # Anything may go wrong on a device, and a live server goes on.
                if not opened and isinstance(error, MirageError):
                    self._stopping = True
                    self._on_fatal(error)
                    return
                pause = self.recover(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, pause)

    def _serve(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                delay = self._delay()
                if delay > 0:
                    self._changed.wait(delay)
            self.expire()
            if delay == 0:
                self.turn()

    def warm_up(self) -> None:
        """Opens the device, then takes frames."""
        begin = self._clock()
        self._device.open(lambda stage: self._tell("warming", stage))
        _LOG.info("ready after %.1f s", self._clock() - begin)
        self._tell("ready", "")

    def turn(self) -> None:
        """One step for all clients whose frames wait or whose streams run free."""
        begin = self._clock()
        turn = self._collect(begin)
        if turn.renew.any():
            self._device.renew(turn.prompts, turn.renew)
        if turn.new_prompt.any():
            self._device.set_prompt(turn.prompts, turn.new_prompt)
        if not turn.frames:
            return
        shape = (len(self._seats), self.height, self.width, 3)
        images = np.zeros(shape, np.uint8)
        for seat, _, frame in turn.frames:
            images[seat] = frame.image
        wanted = self.governor.affordable(self._steps.wanted(turn.wishes), begin)
        self.steps = self._steps.choose(wanted)
        self._busy_since = begin
        styled, healthy = self._device.step(images, turn.arrived, self.steps)
        self._busy_since = None
        end = self._clock()
        self.governor.measured(end - begin, self.steps, end)
        self.counters.steps += 1
        self.counters.step_seconds += end - begin
        self._failures = 0
        for seat, client, frame in turn.frames:
            free = not turn.arrived[seat]
            if not healthy[seat]:
                self._reanchor(client, free)
            elif not (free and client.mailbox.look()):  # else its camera is back
                self._deliver(client, frame, styled[seat], end, free)

    def expire(self) -> None:
        """Closes clients that send nothing or stay too long."""
        now, limits = self._clock(), self._limits
        with self._changed:
            taken = self._seats.taken()
        for _, client in taken:
            if now - client.last_frame > limits.idle:
                self._end(client, f"no frame for {limits.idle:g} s", retry=False)
            elif limits.session and now - client.joined > limits.session:
                self._end(client, f"over after {limits.session:g} s", retry=False)

    def recover(self, error: Exception) -> float:
        """Ends all streams after an error of the device; seconds to the next try."""
        self._busy_since = None
        self.counters.device_errors += 1
        pause = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
        self._failures += 1
        _LOG.error("the device failed, opened again in %g s: %r", pause, error)
        with self._changed:
            self.status, self.detail = "warming", "recovering from a device error"
        self._end_all("the device failed and is opened again", retry=True)
        return pause

    def _delay(self) -> float:
        """Seconds until there is something to do; the lock is held."""
        taken = self._seats.taken()
        waiting = [frame for _, client in taken if (frame := client.mailbox.look())]
        now = self._clock()
        if not waiting:
            due = min((client.free_run.due() for _, client in taken), default=math.inf)
            return min(_TICK, max(0.0, due - now))
        awaited = sum(not client.free_run.lost(now) for _, client in taken)
        longest = now - min(frame.arrived for frame in waiting)
        return self.governor.delay(len(waiting), awaited, longest)

    def _collect(self, now: float) -> Turn:
        """The frames that wait, and those of free runs that go along or are due."""
        turn = Turn(len(self._seats))
        with self._changed:
            taken = self._seats.taken()
            for seat, client in taken:
                turn.wishes.append(client.steps)
                frame = client.mailbox.take()
                if frame is None:
                    continue
                client.free_run.heard(now)
                if self.governor.too_late(now - frame.arrived):
                    client.late += 1
                    continue
                client.newest = frame
                turn.take(seat, client, frame, arrived=True)
            alone = not turn.frames
            for seat, client in taken:
                if client.newest and client.free_run.may_go_along(now):
                    client.free_run.taken(now, alone)
                    turn.take(seat, client, client.newest, arrived=False)
        return turn

    def _deliver(
        self,
        client: Client,
        frame: SourceFrame,
        image: UInt8[np.ndarray, "H W 3"],
        now: float,
        free: bool,
    ) -> None:
        client.shown(now, free)
        if client.free_run.on is not free:
            client.free_run.on = free
            client.sink.state(
                self.status, _CAMERA_LOST if free else _CAMERA_BACK, False
            )
        image = with_strength(frame.image, image, client.strength)
        client.sink.frame(StyledFrame(frame.sequence, frame.captured, image, free=free))
        if free:
            self.counters.free += 1
        else:
            self.counters.styled += 1
            self.counters.frame_seconds += self._clock() - frame.arrived

    def _reanchor(self, client: Client, free: bool) -> None:
        """A picture that no one should see: this stream alone starts anew."""
        with self._changed:
            client.renew = True
            client.free_run.forget()
            client.late += not free
            client.reanchored += 1
            self.counters.reanchored += 1
        client.sink.state(
            "ready", "the stream was reset: it had left its bounds", False
        )

    def _without(self, steps: int) -> None:
        """Tells who wishes them that these steps cannot be had."""
        detail = f"frames of {steps} steps could not be compiled: see the server's log"
        with self._changed:
            for _, client in self._seats.taken():
                if client.steps == steps:
                    client.sink.state(self.status, detail, retry=False)

    def _tell(self, status: str, detail: str) -> None:
        with self._changed:
            self.status, self.detail = status, detail
            for _, client in self._seats.taken():
                client.sink.state(status, detail, retry=False)

    def _end(self, client: Client, reason: str, retry: bool) -> None:
        self.leave(client)
        client.sink.state("ended", reason, retry)

    def _end_all(self, reason: str, retry: bool) -> None:
        with self._changed:
            taken = self._seats.taken()
        for _, client in taken:
            self._end(client, reason, retry)

    def _retire(self, client: Client) -> None:
        """Keeps the counts of a client that leaves; the lock is held."""
        client.mailbox.take()
        self.counters.dropped += client.dropped
