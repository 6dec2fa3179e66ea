"""How long things may take, and what is counted."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class LiveLimits:
    """How long things may take, in seconds.

    Attributes:
      deadline: a frame may wait for the device.
      gather: a waiting frame waits for those of the other clients.
      lost: a client's camera may be silent until its stream goes on without a source;
        infinite: it never does.
      idle: a client may send nothing.
      session: a client may stay; 0 for as long as it likes.
    """

    deadline: float = 0.2
    gather: float = 0.01
    lost: float = math.inf
    idle: float = 60.0
    session: float = 0.0


@dataclasses.dataclass
class Counters:
    """Of all clients since the start.

    Attributes:
      free: pictures without a source, which `styled` has not.
      frame_seconds: of all styled frames, from the engine's having the source to the
        client's having the picture.
    """

    joined: int = 0
    refused: int = 0
    received: int = 0
    styled: int = 0
    free: int = 0
    dropped: int = 0
    reanchored: int = 0
    device_errors: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    frame_seconds: float = 0.0
