"""What all connections of a server share."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
from jaxtyping import Float

from mirage_jax.live.access import Access
from mirage_jax.live.engine import Engine
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.protocol import Blend
from mirage_jax.live.settings import LiveSettings
from mirage_jax.live.shared import SharedStreams

EncodeText = Callable[[Sequence[str]], Float[np.ndarray, "n 384"]]


@dataclasses.dataclass
class WireCounters:
    """Of all connections: open, refused for a message, frames that the wire lost."""

    connections: int = 0
    refused: int = 0
    skipped: int = 0


@dataclasses.dataclass(frozen=True)
class Service:
    """What all sessions of a server share.

    Attributes:
      settings, engine, access: see there.
      styles: prompts of the presets by name.
      encode: prompts to vectors.
      pictures: threads that read and write pictures.
      words: the thread that encodes prompts.
      wire: counts.
      outputs: the sinks of the config.
      shared: streams that others may watch.
    """

    settings: LiveSettings
    engine: Engine
    access: Access
    styles: dict[str, str]
    encode: EncodeText
    pictures: Executor
    words: Executor
    wire: WireCounters
    outputs: Outputs
    shared: SharedStreams

    @property
    def full(self) -> bool:
        """Whether nobody else may connect."""
        return self.wire.connections >= self.settings.connections

    async def vector(self, prompt: str) -> Float[np.ndarray, " 384"]:
        """The prompt's vector, made on a thread of its own, not on the device's."""
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self.words, self.encode, [prompt]))[0]

    async def blend(self, wish: Blend) -> Float[np.ndarray, " 384"]:
        """The vector between those of two prompts, as long as they are."""
        one, other = await self.vector(wish.text), await self.vector(wish.other)
        mixed = (1 - wish.amount) * one + wish.amount * other
        lengths = np.linalg.norm(one), np.linalg.norm(other)
        length = (1 - wish.amount) * lengths[0] + wish.amount * lengths[1]
        scale = length / max(float(np.linalg.norm(mixed)), 1e-6)
        return (scale * mixed).astype(np.float32)
