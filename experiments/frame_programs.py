"""The stream step as it is timed: whole, with a stage left out, and in float32."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.pass_programs import committed, exact_stream
from mirage_jax.config import TEXT_WIDTH, ModelConfig
from mirage_jax.frame_compiler import frame_program
from mirage_jax.frame_step import FrameStep, of_decoder, of_encoder
from mirage_jax.stream import (
    Params,
    StreamState,
    make_step,
    open_stream,
    stream_step,
)
from mirage_jax.stream_config import StreamConfig

LEFT_OUT = ("encode", "pass", "decode")


def open_some_stream(
    params: Params, model: ModelConfig, stream: StreamConfig
) -> StreamState:
    """A fresh state with some prompt: what a frame takes does not depend on it."""
    prompt = jnp.full((stream.batch, TEXT_WIDTH), TEXT_WIDTH**-0.5)
    return open_stream(params, model, stream, prompt, jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class PartStep(FrameStep):
    """A `FrameStep` without one of its stages, whose program is None.

    Attributes:
      without: "encode": the latent of the source is given in the source's place;
        "pass": no pass runs, and what belongs to them (noise, ages, commit) neither:
        the latent of the source is decoded; "decode": the styled latent is the result.
    """

    without: str = ""

    def __call__(
        self, params: Params, state: Any, given: Any, spare: Any = None
    ) -> tuple[Any, Any]:
        """As the whole step; `spare` is a picture whose place the result takes."""
        latent = given
        if self.without != "encode":
            latent = self.encode(of_encoder(params), given)
        state = self.style(params["denoiser"], state, latent, None)
        if self.without == "decode":
            return state, state.styled
        return state, self.decode(of_decoder(params), state.styled, spare)

    @property
    def stages(self) -> dict[str, Any]:
        left = super().stages
        return {name: stage for name, stage in left.items() if name != self.without}


@dataclasses.dataclass(frozen=True)
class FrameProgram:
    """The product's step, or what is left of it without one of its stages.

    Attributes:
      model: sizes.
      stream: how it runs.
      without: one of `LEFT_OUT`, or None for the whole step.
    """

    model: ModelConfig
    stream: StreamConfig
    without: str | None = None

    def lower(self, params: Any) -> Any:
        """Traced for weights of these shapes, to be compiled; the state is donated."""
        s = self.stream
        state = jax.eval_shape(self.open, params)
        source = jax.ShapeDtypeStruct((s.batch, s.height, s.width, 3), jnp.uint8)
        whole = make_step(self.model, s)
        if self.without == "pass":
            no_pass = frame_program(_no_pass, self.model, s, donate=1)
            whole = dataclasses.replace(whole, style=no_pass)
        lowered = whole.lower(params, state, source)
        if self.without is None:
            return lowered
        return PartStep(**lowered.stages, without=self.without)

    def open(self, params: Params) -> StreamState:
        """A fresh stream."""
        return open_some_stream(params, self.model, self.stream)


def _no_pass(
    denoiser: Params,
    state: StreamState,
    latent: Array,
    arrived: None,
    *,
    model: ModelConfig,
    stream: StreamConfig,
) -> StreamState:
    """In the place of `denoised`."""
    del denoiser, arrived, model, stream
    frame = state.frame + 1
    return dataclasses.replace(state, source=latent, styled=latent, frame=frame)


@dataclasses.dataclass(frozen=True)
class ExactFrame:
    """The same frame by the definition: float32 from end to end, nothing of ours.

    Attributes:
      model: sizes.
      stream: of the program that is checked.
    """

    model: ModelConfig
    stream: StreamConfig

    def __call__(
        self, params: Params, state: StreamState, source: Array
    ) -> dict[str, Array]:
        """What the frame leaves, from a state of the program that is checked."""
        stream = exact_stream(self.stream)
        with jax.default_matmul_precision("highest"):
            fresh = open_some_stream(params, self.model, stream)
            k, v = (x.astype(jnp.float32) for x in (state.cache.k, state.cache.v))
            cache = dataclasses.replace(state.cache, k=k, v=v)
            state = dataclasses.replace(state, cache=cache, schedule=fresh.schedule)
            found = stream_step(params, state, source, model=self.model, stream=stream)
        return outcome(*found, self.model)

    def lower(self, params: Any, fast: Any) -> Any:
        """Traced for these weights, and for a state that `fast` weights open."""
        s = self.stream
        state = jax.eval_shape(FrameProgram(self.model, s).open, fast)
        source = jax.ShapeDtypeStruct((s.batch, s.height, s.width, 3), jnp.uint8)
        return jax.jit(self).lower(params, state, source)


def outcome(state: StreamState, picture: Array, model: ModelConfig) -> dict[str, Array]:
    """What a frame leaves: picture, latent, and K and V in all layers."""
    found = {"picture": picture, "latent": state.styled}
    return found | committed(state.cache, model)
