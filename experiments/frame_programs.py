"""The stream step as it is timed: whole, with a stage left out, and in float32."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.pass_programs import committed, exact_stream
from mirage_jax.config import TEXT_WIDTH, ModelConfig
from mirage_jax.frame_compiler import frame_program
from mirage_jax.stream import (
    Params,
    StreamState,
    decode_frame,
    encode_frame,
    make_step,
    open_stream,
    stream_step,
    style_latent,
)
from mirage_jax.stream_config import StreamConfig

LEFT_OUT = ("nothing", "encode", "pass", "decode")


def open_some_stream(
    params: Params, model: ModelConfig, stream: StreamConfig
) -> StreamState:
    """A fresh state with some prompt: what a frame takes does not depend on it."""
    prompt = jnp.full((stream.batch, TEXT_WIDTH), TEXT_WIDTH**-0.5)
    return open_stream(params, model, stream, prompt, jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class FrameProgram:
    """The product's step, or one program of it: whole, or without one of its stages.

    Stages are told apart by what the device saves, so a frame is one program there: of
    a chain without a stage the host would be what is waited for. A program without
    "encode" gets the latent of the source in the source's place; one without "pass"
    runs no pass at all, with what belongs to them (noise, ages, commit), and decodes
    the latent of the source; one without "decode" gives the styled latent. All that is
    left is the product's own code.

    Attributes:
      model: sizes.
      stream: how it runs.
      without: one of `LEFT_OUT`, or None for the product's chain of programs.
    """

    model: ModelConfig
    stream: StreamConfig
    without: str | None = None

    def __call__(
        self,
        params: Params,
        state: StreamState,
        given: Array,
        spare: Array | None = None,
    ) -> tuple[StreamState, Array]:
        """As the product's step; `spare` is a picture whose place the result takes."""
        del spare
        m, s = self.model, self.stream
        latent = given
        if self.without != "encode":
            latent = encode_frame(params, given, model=m, stream=s)
        if self.without == "pass":
            frame = state.frame + 1
            state = dataclasses.replace(
                state, source=latent, styled=latent, frame=frame
            )
        else:
            state = style_latent(params, state, latent, model=m, stream=s)
        if self.without == "decode":
            return state, state.styled
        return state, decode_frame(params, state.styled, model=m, stream=s)

    def lower(self, params: Any) -> Any:
        """Traced for weights of these shapes, to be compiled; the state is donated."""
        s = self.stream
        state = jax.eval_shape(self.open, params)
        source = jax.ShapeDtypeStruct((s.batch, s.height, s.width, 3), jnp.uint8)
        if self.without is None:
            return make_step(self.model, s).lower(params, state, source)
        given = state.source if self.without == "encode" else source
        part = partial(_part, without=self.without)
        program = frame_program(part, self.model, s, donate=(1, 3))
        spare = None if self.without == "decode" else source
        return program.lower(params, state, given, spare)

    def open(self, params: Params) -> StreamState:
        """A fresh stream."""
        return open_some_stream(params, self.model, self.stream)


def _part(
    *operands: Any, model: ModelConfig, stream: StreamConfig, without: str
) -> tuple[StreamState, Array]:
    """A frame without a stage, as `frame_program` takes it."""
    return FrameProgram(model, stream, without)(*operands)


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
