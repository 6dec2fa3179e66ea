"""What the kernels have to reach on one H100, and whether they did."""

import dataclasses
from collections.abc import Iterable, Mapping

from mirage_jax.results import Result

_BIASED = ("cudnn", "cudnn_bias_tensor", "xla")
_MLP = 750 / 30  # 60 dense layers of the 880M model in 0.75 ms, two a call


@dataclasses.dataclass(frozen=True)
class Bar:
    """The fastest of `ours` against the fastest of `rivals`, or against a time.

    Attributes:
      op, case: what was measured.
      ours: backends.
      rivals: backends of the same run; none where the bar is a time.
      most: largest ratio, or largest number of microseconds.
    """

    op: str
    case: str
    ours: tuple[str, ...]
    rivals: tuple[str, ...]
    most: float

    @property
    def against(self) -> str:
        return "_or_".join(self.rivals) or "us"


_KERNELS = ("triton", "mosaic")
BARS = (
    Bar("frame_attention", "lsd_256", _KERNELS, ("cudnn_no_bias",), 0.5),
    Bar("frame_attention", "lsd_256", _KERNELS, _BIASED, 0.5),
    Bar("frame_attention", "lsd_1024", _KERNELS, ("cudnn_no_bias",), 1.05),
    Bar("frame_attention", "lsd_1024", _KERNELS, _BIASED, 0.9),
    Bar("frame_attention", "lsd_256_lagged", _KERNELS, _BIASED, 0.6),
    Bar("modulated_norm", "norm_256", ("triton",), ("xla",), 0.7),
    Bar("modulated_norm", "norm_1024", ("triton",), ("xla",), 0.7),
    Bar("qk_norm_rope_commit", "commit_256", ("triton",), ("xla",), 0.7),
    Bar("qk_norm_rope_commit", "commit_1024", ("triton",), ("xla",), 0.7),
    Bar("mlp_8bit", "mlp_256", ("triton_int8", "mosaic_int8"), (), _MLP),
    Bar(
        "mlp_8bit",
        "mlp_256",
        ("triton_float8_e4m3fn", "mosaic_float8_e4m3fn"),
        (),
        _MLP,
    ),
)


def judge(bars: Iterable[Bar], times: Mapping[str, float]) -> tuple[str, list[Result]]:
    """A line and a result for each bar that can be judged.

    Args:
      times: microseconds by "op/case/backend".
    """
    lines, results = [], []
    for bar in bars:
        path = f"{bar.op}/{bar.case}"
        ours, rivals = (
            [times[f"{path}/{name}"] for name in names if f"{path}/{name}" in times]
            for names in (bar.ours, bar.rivals)
        )
        if not ours or (bar.rivals and not rivals):
            continue
        found = min(ours) / min(rivals) if bar.rivals else min(ours)
        word = "met" if found <= bar.most else "MISSED"
        kind = bar.ours[0].partition("_")[2]  # of the 8-bit formats
        label = f"{path}/{bar.against}" + (f"/{kind}" if kind else "")
        lines.append(f"  {label}: {found:.2f}, at most {bar.most:g}: {word}")
        unit = "" if bar.rivals else "us"
        results.append(Result(f"bar/{label}", found, unit, "lower"))
    return "\n".join(lines), results
