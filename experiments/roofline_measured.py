"""Measured times in result files, beside the stages that they are times of.

Two kinds of file are understood. That of `experiments/bench_pass.py` has passes and
whole steps of one step a frame by combination: what a step takes beyond its pass is the
codec's, what a call that waits takes beyond those that do not is the launch. A
benchmark of the frame has `frame_ms/<precision>/<steps>/p50` and
`stage_ms/<precision>/<steps>/<part>/p50`, parts as `mirage_jax.frame_cost` names them.
"""

import math
from collections.abc import Mapping

from experiments.pass_programs import side_of, stream_of
from experiments.pass_report import TOLERANCE
from mirage_jax.chips import chip_of
from mirage_jax.codec_cost import codec_stages
from mirage_jax.config import ModelConfig
from mirage_jax.cost_model import pass_stages
from mirage_jax.errors import MirageError
from mirage_jax.frame_cost import frame_parts
from mirage_jax.precision import precision_of
from mirage_jax.projection import Measurement, Piece
from mirage_jax.results import read_record, read_results
from mirage_jax.stream_config import StreamConfig


def read_measured(
    path: str, name: str, model: ModelConfig, stream: StreamConfig
) -> Measurement:
    """What a result file says about this model in this stream's precision.

    Args:
      path: of the file.
      name: of the model, which the file must be about.
      model: its sizes.
      stream: says the precision; of a benchmark of the frame all else must agree too.

    Raises:
      MirageError: the file is of another model, of no chip that is known, or has
        nothing about this precision.
    """
    setup, times = read_record(path).setup, read_results(path)
    if setup.get("model") != name:
        raise MirageError(
            f"{path} is about {setup.get('model')!r}: give --model={setup.get('model')}"
            f" or a file about {name!r}"
        )
    chip = chip_of(str(setup.get("device")))
    read = _of_frames if any(key.startswith("frame_ms/") for key in times) else _of_pass
    found = read(times, model, stream)
    if found is None:
        precision = precision_of(stream)
        raise MirageError(
            f"{path} has no times in {precision}: take another --precision or measure "
            "it with experiments/bench_pass.py"
        )
    combination, pieces, launch = found
    return Measurement(chip, f"{path}{combination}", pieces, launch)


Found = tuple[str, tuple[Piece, ...], float | None] | None


def _of_frames(
    times: Mapping[str, float], model: ModelConfig, stream: StreamConfig
) -> Found:
    row = f"{precision_of(stream)}/{stream.steps}"
    frame = times.get(f"frame_ms/{row}/p50")
    pieces, rest = [], frame
    for part in frame_parts(model, stream):
        taken = times.get(f"stage_ms/{row}/{part.name}/p50")
        if taken is None or taken <= 0:  # too short to be told from noise
            rest = None
            continue
        pieces.append(Piece(part.name, part.stages, taken))
        rest = None if rest is None else rest - part.times * taken
    launch = None if rest is None else max(0.0, rest)
    return ("", tuple(pieces), launch) if pieces else None


def _of_pass(
    times: Mapping[str, float], model: ModelConfig, stream: StreamConfig
) -> Found:
    passes = _passes(times, stream)
    if not passes:
        return None
    # The frame that is asked for, else the nearest, decides which combination is best.
    wanted = model.denoiser.frame_tokens(stream.grid)
    nearest = min({tokens for _, tokens in passes}, key=lambda n: abs(n - wanted))
    at = {combo: ms for (combo, tokens), ms in passes.items() if tokens == nearest}
    best = min(at, key=lambda combination: at[combination])
    sizes = sorted(
        (tokens for combo, tokens in passes if combo == best),
        key=lambda tokens: (abs(tokens - nearest), tokens),
    )
    pieces: list[Piece] = []
    launch = None
    for tokens in sizes:
        here = stream_of(best, side_of(tokens, model), on_gpu=True)
        pass_ms, path = passes[best, tokens], f"step_ms/{best}/{tokens}"
        stages = pass_stages(model, here)
        pieces.append(Piece(f"pass/{tokens}", stages, pass_ms))
        step = times.get(f"{path}/back_to_back")
        if step is None:
            continue
        if step > pass_ms:
            codec = codec_stages(model, here)
            pieces.append(Piece(f"codec/{tokens}", codec, step - pass_ms))
        if tokens == nearest:
            launch = max(0.0, times[f"{path}/p50"] - step)
    return f", {best}", tuple(pieces), launch


def _passes(
    times: Mapping[str, float], stream: StreamConfig
) -> dict[tuple[str, int], float]:
    """The device's own milliseconds of a right pass by (combination, tokens)."""
    found: dict[tuple[str, int], float] = {}
    for kind in ("back_to_back", "chained"):  # the second is the better measure
        for path, value in times.items():
            head, _, rest = path.partition("/")
            if head != "pass_ms" or not rest.endswith(f"/{kind}"):
                continue
            combination, tokens, _ = rest.rsplit("/", 2)
            error = times.get(f"error/{combination}/{tokens}", math.inf)
            runs = stream_of(combination, 32, on_gpu=True)
            right = error <= TOLERANCE[runs.eight_bit]
            if right and runs.eight_bit == stream.eight_bit:
                found[combination, int(tokens)] = value
    return found
