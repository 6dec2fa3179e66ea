"""What one step on the device has to do."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from mirage_jax.config import TEXT_WIDTH
from mirage_jax.live.client import Client, SourceFrame


class Turn:
    """The frames of one step, and what their streams need before it.

    Args:
      seats: streams on the device, B.

    Attributes:
      renew, new_prompt: bool [B], streams that start anew or get a prompt.
      prompts: float32 [B, 384].
      arrived: bool [B], streams whose frame has a source.
      frames: (seat, client, frame); without a source the client's newest one.
      wishes: steps that the clients wish, also those whose frame is not there.
    """

    def __init__(self, seats: int):
        self.renew: Bool[np.ndarray, " B"] = np.zeros(seats, bool)
        self.new_prompt: Bool[np.ndarray, " B"] = np.zeros(seats, bool)
        self.prompts: Float[np.ndarray, "B 384"]
        self.prompts = np.zeros((seats, TEXT_WIDTH), np.float32)
        self.arrived: Bool[np.ndarray, " B"] = np.zeros(seats, bool)
        self.frames: list[tuple[int, Client, SourceFrame]] = []
        self.wishes: list[int] = []

    def take(
        self, seat: int, client: Client, frame: SourceFrame, arrived: bool
    ) -> None:
        """A frame; afterwards its client wishes nothing more."""
        self.renew[seat] = client.renew
        self.new_prompt[seat] = client.new_prompt and not client.renew
        self.prompts[seat] = client.prompt
        self.arrived[seat] = arrived
        self.frames.append((seat, client, frame))
        client.renew = client.new_prompt = False
