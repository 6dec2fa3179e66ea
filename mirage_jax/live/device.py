"""The streams of all seats on the device: one state, one program a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from mirage_jax.config import TEXT_WIDTH, ModelConfig
from mirage_jax.denoiser import Condition
from mirage_jax.device_memory import exhaustion_explained
from mirage_jax.device_weights import held_weights
from mirage_jax.monitor import sound
from mirage_jax.stream import (
    Params,
    StreamState,
    decode_frame,
    make_step,
    open_stream,
    reset,
    schedule,
    set_prompt,
)
from mirage_jax.stream_config import StreamConfig
from mirage_jax.weights import Model

Images = UInt8[np.ndarray, "B H W 3"]
Chosen = Bool[np.ndarray, " B"]
Prompts = Float[np.ndarray, "B 384"]
_ELSEWHERE: Any = None  # the schedule of a state between frames: see `step`


class Device(Protocol):
    """What the engine needs: `SeatedStreams`, or a stand-in. Used by one thread."""

    seats: int
    height: int
    width: int
    steps: int  # of a frame's program that `open` compiles

    def open(self, progress: Callable[[str], None]) -> None:
        """Compiles and makes a fresh state; may be called again after an error."""

    def renew(self, prompts: Prompts, chosen: Chosen) -> None:
        """The chosen streams start anew with these prompts; the others go on."""

    def set_prompt(self, prompts: Prompts, chosen: Chosen) -> None:
        """The chosen streams follow these prompts from now on."""

    def prepare(self, steps: int) -> None:
        """Compiles frames of so many steps; from any thread, once it is open."""

    def step(
        self, images: Images, arrived: Chosen, steps: int
    ) -> tuple[Images, Chosen]:
        """Styled frames, and which of them are healthy; returns when they are done.

        Args:
          images, arrived: the sources, and which of them are new.
          steps: those of `open` or others that were prepared.
        """


class _Program(NamedTuple):
    """Frames of some number of steps, compiled: their step and its schedule."""

    step: Any
    schedule: Any


class SeatedStreams:
    """`config.batch` streams of a model.

    Args:
      model: configuration and weights.
      config: how the streams run; the batch is the number of seats. Frames of other
        steps than its own can be prepared.
      seed: of the noise.
    """

    def __init__(self, model: Model, config: StreamConfig, seed: int = 0):
        self.seats, self.height, self.width = config.batch, config.height, config.width
        self.steps = config.steps
        self._model, self._config, self._seed = model, config, seed
        self._params: Params = {}
        self._state: StreamState | None = None
        self._programs: dict[int, _Program] = {}
        self._schedules: dict[int, Condition] = {}
        self._open = jax.jit(open_stream, static_argnums=(1, 2))
        self._renew = jax.jit(renewed, static_argnums=(1, 5), donate_argnums=2)
        self._set_prompt = jax.jit(set_prompt, static_argnums=1, donate_argnums=2)

    def open(self, progress: Callable[[str], None]) -> None:
        """Loads the weights, makes a state and runs every program once.

        After an error of the device nothing of before is used but the programs.

        Raises:
          MirageError: the device has no memory for so many streams of this size.
        """
        what = f"{self.seats} streams of {self.height}x{self.width}"
        with exhaustion_explained(what):
            self._state = None
            self._schedules.clear()
            progress("loading weights")
            self._params = held_weights(self._model.params, self._config)
            prompts = np.zeros((self.seats, TEXT_WIDTH), np.float32)
            everyone = np.ones(self.seats, bool)
            self._state = self._fresh(prompts)
            progress("compiling the model")
            self.prepare(self.steps)
            black = np.zeros((self.seats, self.height, self.width, 3), np.uint8)
            self.step(black, everyone, self.steps)
            progress("compiling prompts")
            self.set_prompt(prompts, everyone)
            self.renew(prompts, everyone)

    def renew(self, prompts: Prompts, chosen: Chosen) -> None:
        hold, model = self._config.hold, self._model.config
        self._state = self._renew(
            self._params, model, self._take(), prompts, chosen, hold
        )

    def set_prompt(self, prompts: Prompts, chosen: Chosen) -> None:
        model = self._model.config
        self._state = self._set_prompt(
            self._params, model, self._take(), prompts, chosen
        )

    def prepare(self, steps: int) -> None:
        if steps in self._programs:
            return
        model, config = self._model.config, self._config
        config = dataclasses.replace(config, steps=steps)
        step = make_step(model, config, show=checked)
        planned = jax.jit(partial(schedule, model=model, stream=config))
        prompts = jax.ShapeDtypeStruct((self.seats, TEXT_WIDTH), jnp.float32)
        key = jax.random.key(self._seed)
        state = jax.eval_shape(
            partial(open_stream, model=model, stream=config),
            self._params,
            prompt=prompts,
            key=key,
        )
        shape = (self.seats, self.height, self.width, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        arrived = jax.ShapeDtypeStruct((self.seats,), jnp.bool)
        self._programs[steps] = _Program(
            step.lower(self._params, state, images, arrived).compile(),
            planned.lower(self._params["denoiser"]).compile(),
        )

    def step(
        self, images: Images, arrived: Chosen, steps: int
    ) -> tuple[Images, Chosen]:
        # A schedule is as long as its frames have passes. The state is without one
        # between frames, so that prompts and renewals have one program for all steps.
        program, state = self._programs[steps], self._take()
        given = self._schedules.pop(steps, None)
        if given is None:
            given = program.schedule(self._params["denoiser"])
        state = dataclasses.replace(state, schedule=given)
        state, shown = program.step(self._params, state, images, arrived)
        self._schedules[steps] = state.schedule
        self._state = dataclasses.replace(state, schedule=_ELSEWHERE)
        return jax.device_get(shown)

    def _fresh(self, prompts: Prompts) -> StreamState:
        key = jax.random.key(self._seed)
        state = self._open(self._params, self._model.config, self._config, prompts, key)
        return dataclasses.replace(state, schedule=_ELSEWHERE)

    def _take(self) -> StreamState:
        """The state, to be given away: after an error nobody finds half of it."""
        state, self._state = self._state, None
        if state is None:
            raise ValueError("the streams are not open: call open() first")
        return state


def checked(
    params: Params,
    styled: Float[Array, "B h w C"],
    place: UInt8[Array, "B H W 3"],
    *,
    model: ModelConfig,
    stream: StreamConfig,
) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, " B"]]:
    """`decode_frame`, and of each stream whether its latent is finite and not loud."""
    picture = decode_frame(params, styled, place, model=model, stream=stream)
    return picture, sound(styled)


def renewed(
    params: Params,
    model: ModelConfig,
    state: StreamState,
    prompts: Float[Array, "B 384"],
    chosen: Bool[Array, " B"],
    hold: int,
) -> StreamState:
    """Streams that start anew, with nothing left of what was in their seats.

    `reset` only forgets: old K and V stay where nobody looks. Here they are wiped,
    because a NaN shines through a mask, and because the seat may be another client's.
    """

    def wiped(x: Any, axis: int) -> Any:
        shape = [1] * x.ndim
        shape[axis] = -1
        return jnp.where(chosen.reshape(shape), jnp.zeros_like(x), x)

    cache = dataclasses.replace(
        state.cache, k=wiped(state.cache.k, 1), v=wiped(state.cache.v, 1)
    )
    state = dataclasses.replace(
        state,
        cache=cache,
        source=wiped(state.source, 0),
        styled=wiped(state.styled, 0),
    )
    return set_prompt(params, model, reset(state, chosen, hold), prompts, chosen)
