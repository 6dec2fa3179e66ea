"""The bars that shipped weights must clear, as checks on the measured values."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from mirage_jax.data.teachers import Style

# A style whose target is found from each pixel's colour alone this well is a colour
# map; a per-channel transfer may then be as good as any model.
COLOUR_MAP = 35.0
OVER_BASELINE = 1.0
LEAST_MEAN = {"procedural": 30.0}
CODEC_GAP = {"procedural": 4.0, "neural": 6.0}
MEAN_SIZE, MEAN_STEPS = 512, 1
MEMORY_GAIN = 1.5
CODEC = {256: 33.0, 512: 37.0}
DRIFT = 0.3


@dataclasses.dataclass(frozen=True)
class Check:
    """One bar: the value, what it must reach, and whether it does.

    Attributes:
      name: path; the result is written as "check/<name>".
      value: measured.
      bound: what it is compared with.
      at_least: whether the value must be at least the bound, else at most.
    """

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        if self.at_least:
            return self.value >= self.bound
        return self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        word = "pass" if self.passed else "FAIL"
        return f"{word}  {self.name}: {self.value:.3f} {sign} {self.bound:.3f}"


def is_colour_map(values: Mapping[str, float], style: str, size: int) -> bool:
    """Whether the teacher is a function of each pixel's colour, as measured."""
    return values.get(f"psnr_colour_map/{style}/{size}", 0.0) >= COLOUR_MAP


def quality_checks(values: Mapping[str, float], styles: Sequence[Style]) -> list[Check]:
    """All checks whose numbers were measured.

    Baselines are compared at one step. A drift check fails for a loss only: a stream
    that gets better with time is no fault.
    """
    kinds = {style.name: style.kind for style in styles}
    checks = [*_means(values), *_codec(values)]
    for name, value in values.items():
        measure, *path = name.split("/")
        if measure == "psnr" and path[2] == "1":
            checks += _baselines(values, path[0], int(path[1]))
        elif measure == "memory_gain" and kinds[path[0]] == "memory":
            checks.append(Check(name, value, MEMORY_GAIN))
        elif re.fullmatch("drift_last_minus_(first|early)", measure):
            checks.append(Check(name, value, -DRIFT))
    return checks


def _baselines(values: Mapping[str, float], style: str, size: int) -> Iterator[Check]:
    here = f"{style}/{size}"
    margin = 0.0 if is_colour_map(values, style, size) else OVER_BASELINE
    for baseline in ("source", "colour_transfer"):
        if baseline == "colour_transfer" and not margin:
            continue
        for measure, over in (("psnr", margin), ("ssim", 0.0)):
            yield Check(
                f"{measure}_over_{baseline}/{here}/1",
                values[f"{measure}/{here}/1"],
                values[f"{measure}_{baseline}/{here}"] + over,
            )


def _means(values: Mapping[str, float]) -> Iterator[Check]:
    for kind, bound in LEAST_MEAN.items():
        name = f"psnr_mean/{kind}/{MEAN_SIZE}/{MEAN_STEPS}"
        if name in values:
            yield Check(name, values[name], bound)
    for kind, bound in CODEC_GAP.items():
        name = f"codec_gap_mean/{kind}/{MEAN_SIZE}/{MEAN_STEPS}"
        if name in values:
            yield Check(name, values[name], bound, at_least=False)


def _codec(values: Mapping[str, float]) -> Iterator[Check]:
    for size, bound in CODEC.items():
        name = f"codec/psnr/{size}"
        if name in values:
            yield Check(name, values[name], bound)
