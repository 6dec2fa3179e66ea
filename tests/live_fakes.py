"""A device without JAX, a sink that keeps everything, and a clock that stands still.

And an engine of all three, moved by hand.
"""

import threading
import time

import numpy as np

from mirage_jax.live.client import SourceFrame
from mirage_jax.live.engine import Engine
from mirage_jax.live.limits import LiveLimits

SIDE = 8


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class FakeDevice:
    """Each stream adds up the frames of its history; the prompt is added as well.

    Whoever saw another's frame has another sum. As the real one, it wants a renewal
    before a stream is right, and after an error it has to be opened again.
    """

    steps = 1

    def __init__(self, seats=2, clock=None, seconds=0.0, side=SIDE):
        self.seats, self.height, self.width = seats, side, side
        self.clock, self.seconds = clock, seconds
        self.sums = np.full(seats, 99)
        self.prompts = np.zeros(seats)
        self.calls = []
        self.sick = set()  # seats whose next picture is not healthy
        self.error = None  # raised by the next step
        self.open_error = None
        self.compiled = threading.Event()  # whether preparing ends
        self.compiled.set()
        self.prepare_error = None
        self.used = []  # steps of every frame

    def open(self, progress):
        self.calls.append("open")
        progress("compiling")
        if self.open_error:
            raise self.open_error
        self.sums = np.full(self.seats, 99)

    def renew(self, prompts, chosen):
        self.calls.append(("renew", *np.flatnonzero(chosen).tolist()))
        self.sums[chosen] = 0
        self.prompts[chosen] = prompts[chosen, 0]

    def set_prompt(self, prompts, chosen):
        self.calls.append(("prompt", *np.flatnonzero(chosen).tolist()))
        self.prompts[chosen] = prompts[chosen, 0]

    def prepare(self, steps):
        assert self.compiled.wait(10)
        if self.prepare_error:
            raise self.prepare_error

    def step(self, images, arrived, steps):
        self.used.append(steps)
        if self.clock is not None:
            self.clock.now += self.seconds
        if self.error:
            error, self.error = self.error, None
            self.sums = np.full(self.seats, 99)
            raise error
        self.calls.append(("step", *np.flatnonzero(arrived).tolist()))
        self.sums = self.sums + np.where(arrived, images[:, 0, 0, 0], 0)
        value = (self.sums + self.prompts).astype(np.uint8)
        healthy = np.array([seat not in self.sick for seat in range(self.seats)])
        self.sick = set()
        pictures = np.broadcast_to(
            value[:, None, None, None], (self.seats, self.height, self.width, 3)
        )
        return pictures, healthy


class Keeper:
    """A sink."""

    def __init__(self):
        self.frames, self.states = [], []

    def frame(self, frame):
        self.frames.append(frame)

    def state(self, name, detail, retry):
        self.states.append((name, detail, retry))

    @property
    def values(self):
        return [int(frame.image[0, 0, 0]) for frame in self.frames]


def source(value, sequence=0, captured=0.0):
    return SourceFrame(sequence, captured, np.full((SIDE, SIDE, 3), value, np.uint8))


def prompt(value=0):
    return np.full(384, value, np.float32)


class Stage:
    """An engine that is moved by hand."""

    def __init__(self, seats=2, seconds=0.0, **limits):
        self.clock = Clock()
        self.device = FakeDevice(seats, self.clock, seconds)
        self.engine = Engine(self.device, LiveLimits(**limits), clock=self.clock)
        self.engine.warm_up()
        self.device.calls.clear()

    def join(self, words=0):
        sink = Keeper()
        return self.engine.join(sink, prompt(words)), sink


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
