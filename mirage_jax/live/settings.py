"""What a live server is told to do, checked before anything is loaded."""

from __future__ import annotations

import importlib.util
import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mirage_jax.commits import commit_of
from mirage_jax.errors import MirageError
from mirage_jax.flow import STEP_COUNTS
from mirage_jax.live.limits import LiveLimits
from mirage_jax.live.log import LOG_FORMS
from mirage_jax.live.shared import is_key
from mirage_jax.precision import fields_of
from mirage_jax.ranges import check_choices, check_names, check_ranges
from mirage_jax.stream_config import StreamConfig
from mirage_jax.text import check_prompt
from mirage_jax.video.frame_size import check_fit, parse_size

# Seconds without a source until a client's stream goes on by itself.
LOST = {"hold": math.inf, "free": 1.0}
TRANSPORTS = ("auto", "webrtc", "websocket")


def webrtc_installed() -> bool:
    """Whether this environment has aiortc."""
    return importlib.util.find_spec("aiortc") is not None


@dataclass(frozen=True)
class LiveSettings:
    """One server. The fields are those of configs/live.py, which describes them."""

    model: str
    prompt: str
    strength: float
    size: str
    cpu_size: str
    fit: str
    steps: int
    most_steps: int
    commit: str
    precision: str
    seed: int
    seats: int
    cpu_seats: int
    host: str
    port: int
    replicas: int
    cluster: str
    token: str
    names: str
    transport: str
    certificate: str
    key: str
    browser: bool
    log: str
    source: str
    source_seconds: float
    source_key: str
    record: str
    push: str
    virtual_camera: bool
    recordings: str
    recording_seconds: float
    deadline_ms: float
    gather_ms: float
    lost: str
    idle_seconds: float
    session_seconds: float
    connections: int
    frame_bytes: int
    frame_pixels: int
    messages_per_second: float
    prompt_characters: int
    jpeg_quality: int

    def __post_init__(self) -> None:
        check_fit(self.fit)
        parse_size(self.size)
        parse_size(self.cpu_size)
        check_prompt(self.prompt)
        check_choices(self, transport=TRANSPORTS, log=LOG_FORMS, lost=tuple(LOST))
        if self.transport == "webrtc" and not webrtc_installed():
            raise MirageError(
                "transport webrtc needs aiortc: pip install aiortc, or take auto"
            )
        for name in ("token", "source_key"):
            value = getattr(self, name)
            if value and not is_key(value):
                raise MirageError(
                    f"{name} is none: take 16 to 128 letters, digits, - or _, or leave "
                    "it empty"
                )
        ranges = {
            "strength": (0, 1),
            "seed": (0, 2**32 - 1),
            "seats": (1, 64),
            "cpu_seats": (1, 64),
            "port": (0, 65535),
            "replicas": (1, 1000),
            "source_seconds": (0, 10**7),
            "recording_seconds": (1, 10**7),
            "deadline_ms": (1, 10_000),
            "gather_ms": (0, 1000),
            "idle_seconds": (1, 86_400),
            "session_seconds": (0, 10**7),
            "connections": (1, 1000),
            "frame_bytes": (10_000, 64 << 20),
            "frame_pixels": (4096, 1 << 26),
            "messages_per_second": (1, 1000),
            "prompt_characters": (1, 8000),
            "jpeg_quality": (1, 95),
        }
        check_ranges(self, ranges)
        if bool(self.certificate) is not bool(self.key):
            raise MirageError(
                "a certificate needs its key: give both --config.certificate and "
                "--config.key, or none"
            )
        if self.replicas > 1:
            self._check_replicas()
        self.stream("cpu")
        check_ranges(self, {"most_steps": (self.steps, STEP_COUNTS[-1])})

    def _check_replicas(self) -> None:
        alone = ("source", "record", "push", "virtual_camera")
        if given := [name for name in alone if getattr(self, name)]:
            raise MirageError(
                f"{given[0]} belongs to one server: leave it empty, or take replicas 1"
            )
        if not self.port:
            raise MirageError("replicas need a port that is known: give --config.port")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> LiveSettings:
        """Builds settings from a config's values; unknown and missing names fail."""
        check_names(cls, values, reader="a live server", example="configs/live.py")
        return cls(**values)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def offered_transport(self) -> str:
        """What a page takes: on this machine nothing is gained by WebRTC."""
        if self.transport != "auto":
            return self.transport
        return "webrtc" if webrtc_installed() and not self.loopback else "websocket"

    @property
    def step_choices(self) -> tuple[int, ...]:
        """Steps a frame that a client may wish."""
        return tuple(steps for steps in STEP_COUNTS if steps <= self.most_steps)

    def stream(self, platform: str) -> StreamConfig:
        """The streams' configuration on a device of this platform."""
        cpu = platform == "cpu"
        height, width = parse_size(self.cpu_size if cpu else self.size)
        return StreamConfig(
            height=height,
            width=width,
            steps=self.steps,
            commit=commit_of(self.commit, platform),
            batch=self.cpu_seats if cpu else self.seats,
            **fields_of(self.precision, platform),
        )

    def limits(self) -> LiveLimits:
        """The engine's share of them."""
        return LiveLimits(
            deadline=self.deadline_ms / 1000,
            gather=self.gather_ms / 1000,
            lost=LOST[self.lost],
            idle=self.idle_seconds,
            session=self.session_seconds,
        )
