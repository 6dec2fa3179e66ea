"""Counts what the compiled stream step consists of, on a machine of any speed.

    python -m experiments.count_program
    python -m experiments.compare --percent=0 \
        docs/results/program_counts_test_cpu_jax_0.10.2.json new.json

FLOPs, bytes, kernels, fusions, custom calls, copies, transfers to the host, and the
buffers that go in, come out and are donated: a change of the code that adds one shows
here, on any CPU, before anything is timed. Weights are never made, only their shapes.
The counts are those of one compiler, so there is a baseline for every version of JAX.
"""

from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.command import command
from experiments.program_counts import count_program, total
from experiments.random_model import random_params
from mirage_jax.config import TEXT_WIDTH, ModelConfig, model_config
from mirage_jax.device_weights import device_weights
from mirage_jax.errors import MirageError
from mirage_jax.frame_step import FrameStep
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.stream import make_step, open_stream
from mirage_jax.stream_config import DTYPES, StreamConfig
from pallas_kernels import device

_MODEL = flags.DEFINE_string("model", "test", "A named size.")
_SIDE = flags.DEFINE_integer("side", 64, "Of the square frame, pixels.")
_PROGRAMS = flags.DEFINE_list(
    "programs",
    ["float32/merged/1", "float32/lagged/2", "int8/merged/1"],
    "Stream steps as precision/commit/steps; all programs of one count together.",
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Results; docs/results/program_counts_<model>_<device>_jax_<version>.json by "
    "default.",
)


def run() -> None:
    """Compiles and counts what the flags ask for."""
    model = model_config(_MODEL.value)
    results: list[Result] = []
    for path in _PROGRAMS.value:
        stream = stream_of(path, _SIDE.value)
        programs = compile_step(model, stream).stages.values()
        found = total([count_program(path, program) for program in programs])
        for result in found:
            print(f"{result.name}: {result.value:g} {result.unit}".rstrip())
        results += found
    card = device.present()
    slug = "cpu" if card is None else card.slug
    out = _OUT.value or (
        f"docs/results/program_counts_{_MODEL.value}_{slug}_jax_{jax.__version__}.json"
    )
    setup = device_setup() | {"model": _MODEL.value, "side": _SIDE.value}
    write_results(out, "experiments/count_program.py", setup, results)
    print(f"results in {out}")


def stream_of(path: str, side: int) -> StreamConfig:
    """The stream that a program's name stands for, "int8/merged/1".

    Raises:
      MirageError: another form, or a part that a stream does not know.
    """
    precision, *rest = path.split("/")
    if len(rest) != 2 or not rest[1].isdecimal():
        raise MirageError(
            f"--programs={path}: write precision/commit/steps, as float32/merged/1"
        )
    kind: dict[str, Any] = {"dtype" if precision in DTYPES else "eight_bit": precision}
    return StreamConfig(side, side, commit=rest[0], steps=int(rest[1]), **kind)


def compile_step(model: ModelConfig, stream: StreamConfig) -> FrameStep:
    """The step that a driver of this stream runs, compiled from shapes alone."""

    def weights() -> Any:
        params = random_params(jax.random.key(0), model, stream.dtype)
        return device_weights(params, stream)

    def state(params: Any) -> Any:
        prompt = jnp.zeros((stream.batch, TEXT_WIDTH))
        return open_stream(params, model, stream, prompt, jax.random.key(0))

    params = jax.eval_shape(weights)
    shape = (stream.batch, stream.height, stream.width, 3)
    source = jax.ShapeDtypeStruct(shape, jnp.uint8)
    step = make_step(model, stream)
    return step.lower(params, jax.eval_shape(state, params), source).compile()


main = command("count_program", run)

if __name__ == "__main__":
    app.run(main)
