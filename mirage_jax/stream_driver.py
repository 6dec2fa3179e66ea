"""One stream held open: the compiled step together with the state it moves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax import stream as streaming
from mirage_jax.device_weights import held_weights
from mirage_jax.frame_step import FrameStep
from mirage_jax.stream import StreamState
from mirage_jax.stream_config import StreamConfig
from mirage_jax.weights import Model


class Driver(Protocol):
    """A stream as `render` sees it: `StreamDriver`, or a stand-in."""

    def open(self, prompt: Float[np.ndarray, " 384"], seed: int) -> None: ...

    def set_prompt(self, prompt: Float[np.ndarray, " 384"]) -> None: ...

    def step(self, source: UInt8[np.ndarray, "1 H W 3"]) -> UInt8[Array, "1 H W 3"]: ...


class StreamDriver:
    """Styles frames of one stream, in order; compiled once a (model, config).

    Args:
      model: configuration and weights.
      config: how the stream runs; its batch must be 1.
    """

    def __init__(self, model: Model, config: StreamConfig):
        if config.batch != 1:
            raise ValueError(f"a driver holds one stream, got {config.batch=}")
        self.config = config
        self._params = held_weights(model.params, config)
        self._model = model.config
        self._step: FrameStep | None = None  # compiled with the first frame
        self._open = jax.jit(streaming.open_stream, static_argnums=(1, 2))
        self._set_prompt = jax.jit(
            streaming.set_prompt, static_argnums=1, donate_argnums=2
        )
        self._state: StreamState | None = None

    def open(self, prompt: Float[np.ndarray, " 384"], seed: int) -> None:
        """Starts the stream anew; what it did before leaves no trace."""
        self._state = None  # frees the old state before the new one is made
        self._state = self._open(
            self._params, self._model, self.config, prompt[None], jax.random.key(seed)
        )

    def set_prompt(self, prompt: Float[np.ndarray, " 384"]) -> None:
        """The next frame follows this prompt; the history stays."""
        self._state = self._set_prompt(
            self._params, self._model, self._opened(), prompt[None]
        )

    def step(
        self, source: UInt8[np.ndarray | Array, "1 H W 3"]
    ) -> UInt8[Array, "1 H W 3"]:
        """Begins the next frame and returns at once, before the device is done.

        A source that is on the device already is used up.
        """
        state = self._opened()
        if self._step is None:
            # All stages side by side; called as they are they would be one by one.
            step = streaming.make_step(self._model, self.config)
            self._step = step.lower(self._params, state, source).compile()
        self._state, styled = self._step(self._params, state, source)
        return styled

    def _opened(self) -> StreamState:
        if self._state is None:
            raise ValueError("the stream is not open: call open() first")
        return self._state


def time_frames(
    driver: Driver,
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    seconds: float,
    warm_up: int = 2,
    most: int = 1000,
) -> list[float]:
    """Measures frame time: source bytes on the device to styled bytes on the device.

    Each time runs from the call of the step until its result is ready, with nothing
    else going on: no decoding, no copies to or from the device, no file. The frames
    are gone round again if they are few. The stream must be open and compiled; its
    state has moved on afterwards.

    Args:
      driver: an open stream.
      frames: the clip's own frames.
      seconds: stop after about this long, but not before 3 frames.
      warm_up: frames that run first and do not count.
      most: stop after this many frames.

    Returns:
      Seconds of each frame.
    """
    times: list[float] = []
    for index in range(warm_up + most):
        source = jax.device_put(frames[index % len(frames)][None])
        jax.block_until_ready(source)
        begin = time.perf_counter()
        driver.step(source).block_until_ready()
        if index >= warm_up:
            times.append(time.perf_counter() - begin)
        if len(times) >= 3 and sum(times) >= seconds:
            break
    return times
