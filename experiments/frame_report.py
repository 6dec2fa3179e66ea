"""What the benchmark of the frame records and prints."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.call_timing import Calls, summary
from experiments.frame_timing import Stage, Transfers
from experiments.pass_report import TOLERANCE
from mirage_jax.chips import Chip
from mirage_jax.config import ModelConfig
from mirage_jax.cost_model import count_parameters
from mirage_jax.frame_cost import frame_floor_ms, frame_parts
from mirage_jax.results import Result
from mirage_jax.stream_config import StreamConfig

DEADLINES_MS = (16, 33)  # of 60 and of 30 frames a second


def most_error(stream: StreamConfig) -> float:
    """Relative error of a frame that rounding explains.

    That of a pass, for each of them: one hands its error on to the next, and codec and
    cache round too.
    """
    return (1 + stream.steps) * TOLERANCE[stream.eight_bit]


def error_results(row: str, errors: Mapping[str, float]) -> list[Result]:
    """`error/<row>/<what>`, against float32."""
    return [
        Result(f"error/{row}/{what}", error, "", "lower")
        for what, error in errors.items()
    ]


def frame_results(row: str, times: Sequence[float], together: float) -> list[Result]:
    """Frame time, its jitter, missed deadlines and dispatch.

    Args:
      row: "<precision>/<steps>".
      times: milliseconds of frames that were waited for, in their order.
      together: of a frame among many that were not.
    """
    calls = summary(times, together)
    quartiles = np.percentile(times, (25, 75)).tolist()
    values = _percentiles(calls) | {
        "jitter": float(np.std(np.diff(times))),
        "back_to_back": together,
    }
    found = [
        Result(f"frame_ms/{row}/{name}", value, "ms", "lower")
        for name, value in values.items()
    ]
    for deadline in DEADLINES_MS:
        missed = 100 * float(np.mean(np.asarray(times) > deadline))
        found.append(Result(f"missed/{row}/{deadline}_ms", missed, "%", "lower"))
    dispatch = Stage(calls.p50 - together, quartiles[1] - quartiles[0])
    return found + stage_results(row, {"dispatch": dispatch})


def transfer_results(row: str, kind: str, run: Transfers) -> list[Result]:
    """`host_latency_ms/<row>/<kind>/...` and `host_fps/<row>/<kind>`."""
    calls = summary(run.latencies, 1e3 / run.fps)
    found = [
        Result(f"host_latency_ms/{row}/{kind}/{name}", value, "ms", "lower")
        for name, value in _percentiles(calls).items()
    ]
    return [*found, Result(f"host_fps/{row}/{kind}", run.fps, "1/s", "higher")]


def stage_results(row: str, stages: Mapping[str, Stage]) -> list[Result]:
    """`stage_ms/<row>/<stage>/p50` and `stage_ms_spread/...`."""
    found = []
    for name, stage in stages.items():
        for family, value in (("", stage.p50), ("_spread", stage.spread)):
            path = f"stage_ms{family}/{row}/{name}/p50"
            found.append(Result(path, value, "ms", "lower"))
    return found


def stream_results(streams: int, calls: Calls) -> list[Result]:
    """`fps/<streams>` of all together, and the latency of a batch."""
    fps = 1e3 * streams / calls.back_to_back
    found = [
        Result(f"latency_ms/{streams}/{name}", value, "ms", "lower")
        for name, value in _percentiles(calls).items()
    ]
    return [Result(f"fps/{streams}", fps, "1/s", "higher"), *found]


def size_results(model: ModelConfig, stream: StreamConfig) -> list[Result]:
    """Parameters of denoiser and codec, and tokens of a frame."""
    parts = {part.name: part.stages for part in frame_parts(model, stream)}
    codec = sum(stage.parameters for stage in (*parts["encode"], *parts["decode"]))
    values = {
        "parameters/denoiser": count_parameters(model),
        "parameters/codec": codec,
        "tokens": model.denoiser.frame_tokens(stream.grid),
    }
    return [Result(name, value, "", "lower") for name, value in values.items()]


def cost_results(
    row: str,
    model: ModelConfig,
    stream: StreamConfig,
    chips: Mapping[str, Chip],
    together: float,
) -> list[Result]:
    """Work and bytes of a frame, and how near the device comes to its ceilings.

    Args:
      row: "<precision>/<steps>".
      model: sizes.
      stream: what ran.
      chips: ceilings by whose they are, "stated" by the vendor or "measured".
      together: milliseconds of a frame, none of which is waited for.

    Returns:
      `flops`, `bytes/<row>/<whose>`, `floor_ms`, `floor_share` (floor over time, 100 at
      the floor) and `flop_use` (time of the products alone at full rate over time).
    """
    parts = frame_parts(model, stream)
    runs = [(part.times, stage) for part in parts for stage in part.stages]
    flops = sum(times * stage.flops for times, stage in runs)
    found = [Result(f"flops/{row}", flops, "FLOP", "lower")]
    for whose, chip in chips.items():
        if not {stage.precision for _, stage in runs} <= chip.rates.keys():
            continue  # no ceiling for what the chip has no matrix units for
        path = f"{row}/{whose}"
        moved = sum(times * stage.bytes_moved(chip) for times, stage in runs)
        products = sum(1e3 * t * stage.compute_seconds(chip) for t, stage in runs)
        floor = frame_floor_ms(parts, chip)
        found += [
            Result(f"bytes/{path}", moved, "B", "lower"),
            Result(f"floor_ms/{path}", floor, "ms", "lower"),
            Result(f"floor_share/{path}", 100 * floor / together, "%", "higher"),
            Result(f"flop_use/{path}", 100 * products / together, "%", "higher"),
        ]
    return found


def table(results: Sequence[Result]) -> str:
    """Results that lie side by side in one line: those of one path up to its last."""
    lines: dict[str, list[str]] = {}
    for result in results:
        family, _, last = result.name.rpartition("/")
        if family.startswith("stage_ms_spread"):
            continue
        value = f"{last} {result.value:.4g}"
        lines.setdefault(f"{family} {result.unit}".strip(), []).append(value)
    return "\n".join(f"  {name}: {', '.join(row)}" for name, row in lines.items())


def _percentiles(calls: Calls) -> dict[str, float]:
    return {"p50": calls.p50, "p95": calls.p95, "p99": calls.p99, "max": calls.most}
