"""What one run of main.py is told to do, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_jax.commits import commit_of
from mirage_jax.errors import MirageError
from mirage_jax.precision import fields_of
from mirage_jax.ranges import check_names, check_ranges
from mirage_jax.schedule import PromptSchedule, parse_schedule
from mirage_jax.stream_config import StreamConfig
from mirage_jax.text import check_prompt
from mirage_jax.video.frame_size import check_fit, parse_size

OUTPUTS = ("styled.mp4", "compare.mp4", "contact_sheet.png", "summary.json")


@dataclass(frozen=True)
class RenderSettings:
    """One run. The fields are those of configs/render.py, which describes them."""

    source: str
    out: str
    prompt: str
    schedule: str
    strength: float
    model: str
    size: str
    fit: str
    steps: int
    commit: str
    precision: str
    seed: int
    fps: float
    max_frames: int
    cpu_max_frames: int
    audio: bool
    compare: bool
    sheet_columns: int
    timing_seconds: float
    profile_dir: str

    def __post_init__(self) -> None:
        check_fit(self.fit)
        parse_size(self.size)
        for prompt in self.prompts().prompts:
            check_prompt(prompt)
        fields_of(self.precision)  # raises where there is none such
        commit_of(self.commit)  # likewise
        ranges = {
            "strength": (0, 1),
            "seed": (0, 2**32 - 1),
            "fps": (0, 240),
            "max_frames": (0, 10**9),
            "cpu_max_frames": (0, 10**9),
            "sheet_columns": (1, 24),
            "timing_seconds": (0, 600),
        }
        check_ranges(self, ranges)
        source = Path(self.source).resolve()
        if source in [(Path(self.out) / name).resolve() for name in OUTPUTS]:
            raise MirageError(
                f"source {self.source} would be overwritten by the result: choose "
                "another --config.out"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RenderSettings:
        """Builds settings from a config's values; unknown and missing names fail."""
        check_names(cls, values, reader="main.py", example="configs/render.py")
        return cls(**values)

    def prompts(self) -> PromptSchedule:
        """The schedule, with cleaned prompts still to be checked."""
        return parse_schedule(self.schedule, self.prompt)

    def stream(self, platform: str) -> StreamConfig:
        """The stream's configuration on a device of this platform."""
        height, width = parse_size(self.size)
        return StreamConfig(
            height=height,
            width=width,
            steps=self.steps,
            commit=commit_of(self.commit, platform),
            **fields_of(self.precision, platform),
        )

    def frame_limit(self, platform: str) -> int | None:
        """Frames to render at most on this platform; None for all."""
        limits = [self.max_frames]
        if platform == "cpu":
            limits.append(self.cpu_max_frames)
        return min((limit for limit in limits if limit), default=None)
