"""The stream step as it runs on a device: a chain of three programs, a stage each."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, UInt8

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FrameStep:
    """Encode, denoise and decode, called one after another.

    Before a program can begin, the host goes through all its buffers, weight by weight,
    and starts its kernels. In a chain it does that for a stage while the device is at
    the one before, so only the encoder's share is waited for. Stages are functions of
    `jax.jit`; those of a step that was lowered or compiled are what JAX made of them.

    Attributes:
      encode: (params, source) -> latent of the source.
      style: (params, state, latent, arrived) -> the next state; gives the state up.
      decode: (params, latent, source) -> what is shown, a picture as a rule; gives the
        source up, whose place in memory the picture takes.
    """

    encode: Any
    style: Any
    decode: Any

    def __call__(
        self,
        params: Params,
        state: Any,
        source: UInt8[np.ndarray | Array, "B H W 3"],
        arrived: Bool[Array, " B"] | None = None,
    ) -> tuple[Any, Any]:
        """The next state, and what `decode` makes of its styled latent.

        Args:
          params: {"codec": ..., "denoiser": ...}.
          state: a `StreamState`, which is used up.
          source: is used up too, unless it is the host's.
          arrived: which streams really got a new source; None means all.
        """
        if not isinstance(source, jax.Array):
            # What is given up must not be the user's own memory.
            source = jax.device_put(source, may_alias=False)
        latent = self.encode(of_encoder(params), source)
        state = self.style(of_denoiser(params), state, latent, arrived)
        return state, self.decode(of_decoder(params), state.styled, source)

    def lower(
        self, params: Params, state: Any, source: Any, arrived: Any = None
    ) -> "FrameStep":
        """Every stage traced for operands of these shapes, to be compiled."""
        encoder, decoder = of_encoder(params), of_decoder(params)
        latent = jax.eval_shape(self.encode, encoder, source)
        return dataclasses.replace(
            self,
            encode=self.encode.lower(encoder, source),
            style=self.style.lower(of_denoiser(params), state, latent, arrived),
            decode=self.decode.lower(decoder, state.styled, source),
        )

    def compile(self, compiler_options: Mapping[str, Any] | None = None) -> "FrameStep":
        """A lowered step's programs, compiled side by side."""

        def one(lowered: Any) -> Any:
            return lowered.compile(compiler_options=compiler_options)

        with ThreadPoolExecutor(len(self.stages)) as pool:
            programs = zip(
                self.stages, pool.map(one, self.stages.values()), strict=True
            )
            return dataclasses.replace(self, **dict(programs))

    @property
    def stages(self) -> dict[str, Any]:
        """Functions or programs by name, in the order of a frame."""
        return {"encode": self.encode, "style": self.style, "decode": self.decode}


def of_encoder(params: Params) -> Params:
    """What the first stage reads of all weights; more would only cost the host time."""
    return {"codec": {k: v for k, v in params["codec"].items() if k != "decoder"}}


def of_denoiser(params: Params) -> Params:
    """The same of the second stage."""
    return {"denoiser": params["denoiser"]}


def of_decoder(params: Params) -> Params:
    """The same of the last stage."""
    return {"codec": {k: v for k, v in params["codec"].items() if k != "encoder"}}
