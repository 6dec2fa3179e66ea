r"""The least time of a frame on a chip, stage by stage, and what of it was reached.

    python -m experiments.roofline --config configs/lsd_880m.py --chip rtx3090
    python -m experiments.roofline --chip=rtx3090 --precision=int8 \
      --measured=docs/results/pass_lsd_880m_nvidia_h100_80gb_hbm3.json

Counts FLOPs and bytes of encoding, every denoiser pass and decoding from the model's
configuration, and divides them by what the chip's vendor states (`mirage_jax.chips`).
With --measured, a result file of experiments/bench_pass.py or benchmark.py, it says
which share of its own chip's floor was reached there; if that is another chip than
--chip, it applies the shares to this one's floor. That is a projection, and is called
so wherever it stands. With --compile it compiles the whole stream step for the chip,
which need not be there, and fails where that needs more memory than the chip has.
Writes one JSON file and prints a table.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

if not __package__:  # `python experiments/roofline.py` works too
    sys.path.insert(0, str(Path(__file__).parent.parent))

from absl import app, flags
from ml_collections import config_flags

from experiments.absent_card import compile_step, target_of
from experiments.command import command
from experiments.pass_programs import side_of, stream_of
from experiments.roofline_measured import read_measured
from experiments.roofline_report import (
    Roofline,
    chip_setup,
    floor_table,
    measured_results,
    measured_table,
    projected_results,
    projection_table,
    projections,
    to_results,
)
from mirage_jax.chips import KINDS, chip_of
from mirage_jax.config import ModelConfig, model_config
from mirage_jax.errors import MirageError
from mirage_jax.frame_cost import frame_parts
from mirage_jax.precision import EIGHT_BIT
from mirage_jax.projection import Measurement
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.stream_config import StreamConfig

_CONFIG = config_flags.DEFINE_config_file("config", "configs/lsd_880m.py")
_MODEL = flags.DEFINE_string("model", None, "A named size; else that of the config.")
_CHIP = flags.DEFINE_string("chip", "rtx3090", "A chip of mirage_jax/chips.py.")
_TOKENS = flags.DEFINE_integer("tokens", None, "Tokens of a square frame, 256 or 1024.")
_STEPS = flags.DEFINE_integer("steps", 1, "Denoiser passes a frame: 1, 2 or 4.")
_COMMIT = flags.DEFINE_string("commit", "merged", "merged, lagged or clean.")
_PRECISION = flags.DEFINE_string("precision", "bfloat16", "bfloat16, int8 or float8.")
_STREAMS = flags.DEFINE_integer("streams", 1, "Streams that run together.")
_MEASURED = flags.DEFINE_string("measured", None, "A result file with times.")
_COMPILE = flags.DEFINE_bool("compile", False, "Compile the step for the chip.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/roofline_<model>_<chip>.json by default."
)


def report() -> bool:
    """Prints and writes what the flags ask for; whether a compiled step did not fit."""
    config = _config()
    name = _MODEL.value or config["model"]
    model = model_config(name)
    tokens = config["tokens"][0] if _TOKENS.value is None else _TOKENS.value
    stream = _stream(model, tokens)
    chip = chip_of(_CHIP.value)
    short = KINDS.get(_CHIP.value, _CHIP.value)
    roofline = Roofline(short, chip, frame_parts(model, stream))
    print(
        f"{name} on {chip.name}: {tokens} tokens, {stream.steps} steps, "
        f"{stream.commit} commit, {_PRECISION.value}, {stream.batch} streams"
    )
    print(floor_table(roofline))
    results = to_results(roofline)
    setup: dict[str, Any] = device_setup() | {
        "model": name,
        "chip": chip_setup(chip),
        "tokens": tokens,
        "steps": stream.steps,
        "commit_mode": stream.commit,
        "precision": _PRECISION.value,
        "streams": stream.batch,
        "floor": "stages one after another, each the larger of bytes and work",
        "bound": roofline.bounds(),
    }
    if _MEASURED.value is not None:
        measured = read_measured(_MEASURED.value, name, model, stream)
        setup["measured"] = measured.source
        results += _compare(roofline, measured)
    too_large = False
    if _COMPILE.value:
        setup["compiled"] = str(stream)
        memory = compile_step(target_of(short), model, stream)
        results += memory.to_results(short)
        too_large = memory.total >= chip.memory
        print(
            f"compiled for {chip.name}: {memory.total / 2**30:.2f} of "
            f"{chip.memory / 2**30:.0f} GiB, "
            f"{'too much' if too_large else 'and no block asks for more than it may'}"
        )
    out = _OUT.value or f"docs/results/roofline_{name}_{short}.json"
    write_results(out, "experiments/roofline.py", setup, results)
    print(f"results in {out}")
    return too_large


def _config() -> dict[str, Any]:
    try:
        return {key: _CONFIG.value[key] for key in ("model", "tokens")}
    except (KeyError, TypeError, OSError) as error:
        raise MirageError(
            "--config names no model and tokens: try configs/lsd_880m.py"
        ) from error


def _stream(model: ModelConfig, tokens: int) -> StreamConfig:
    """Our Triton kernels, so that it can be compiled; the floor is that of any."""
    precision = _PRECISION.value
    if precision != "bfloat16" and precision not in EIGHT_BIT:
        raise MirageError(
            f"--precision={precision}: take one of bfloat16, {', '.join(EIGHT_BIT)}"
        )
    combination = "triton" + ("" if precision == "bfloat16" else f"+{precision}")
    return dataclasses.replace(
        stream_of(combination, side_of(tokens, model), on_gpu=True),
        steps=_STEPS.value,
        commit=_COMMIT.value,
        batch=_STREAMS.value,
    )


def _compare(roofline: Roofline, measured: Measurement) -> list[Result]:
    print(measured_table(measured))
    name = next(short for short in KINDS.values() if chip_of(short) is measured.chip)
    results = measured_results(name, measured)
    if measured.chip is roofline.chip:
        return results
    projected = projections(roofline, measured)
    print(projection_table(roofline, projected))
    return results + projected_results(roofline.name, projected)


main = command("roofline", report)

if __name__ == "__main__":
    app.run(main)
