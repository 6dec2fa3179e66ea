"""Times training steps of the denoiser, on one mesh of devices after another.

    python -m experiments.bench_train --model=lsd_880m --remat=full
    python -m experiments.bench_train --model=lsd_880m --remat=full --devices=1,2,4

The step is the whole one of experiments/train_denoiser.py: it draws clips from random
pictures, runs the teachers and a codec with random weights, trains and averages. Every
device draws a batch of its own, one clip of each style, so that twice the devices are
twice the tokens; weights and optimiser are split over all of them, or over --fsdp.
Tokens a second and the share of the bfloat16 peak of the data sheet are counted as in
`mirage_jax.training.work`. Writes one JSON file, prints a line a mesh, exits with 1
where a loss is not finite. --model=test runs on any device, to test the script itself.
"""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.command import command
from experiments.host_setup import host_setup
from experiments.side_by_side import QUICK
from mirage_jax.codec import init_codec
from mirage_jax.config import TEXT_WIDTH, ModelConfig, model_config
from mirage_jax.cost_model import count_parameters
from mirage_jax.data.store import synthetic_store
from mirage_jax.denoiser import REMAT, init_denoiser
from mirage_jax.device_memory import exhaustion_explained, peak_memory
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.training.clips import ClipBatch, DenoiserData, style_names
from mirage_jax.training.denoiser import DenoiserLoss, make_denoiser_loss
from mirage_jax.training.mesh import MeshConfig, copied, make_mesh, place, split
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.step import init_state, make_step
from mirage_jax.training.work import StepWork, clip_work

_MODEL = flags.DEFINE_string("model", "lsd_880m", "A size in mirage_jax.config.MODELS.")
_DEVICES = flags.DEFINE_list("devices", ["1"], "How many devices, one after another.")
_FSDP = flags.DEFINE_integer("fsdp", -1, "Devices that share one state; -1: all.")
_SIZE = flags.DEFINE_integer("size", 512, "Height and width of the frames.")
_FRAMES = flags.DEFINE_integer("frames", 16, "Frames of a clip.")
_STYLES = flags.DEFINE_list("styles", [], "One clip a device of each; empty: all.")
_DRAWS = flags.DEFINE_integer("draws", 1, "How often a step uses each clip.")
_REMAT = flags.DEFINE_enum("remat", "full", list(REMAT), "What layers compute again.")
_OPTIMISER = flags.DEFINE_string("optimiser", "muon", "muon or adamw.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps that are timed, back to back.", 1)
_WARMUP = flags.DEFINE_integer("warmup", 3, "Steps before them.", 1)
_OUT = flags.DEFINE_string("out", "outputs/bench_train.json", "The JSON file.")


@dataclasses.dataclass(frozen=True)
class Measured:
    """Training on so many devices; `planned` bytes a device are the compiler's."""

    devices: int
    step_seconds: float
    compile_seconds: float
    planned: int
    loss: float
    work: StepWork

    def results(self) -> list[Result]:
        speeds = self.work.speeds(self.step_seconds)
        count = self.devices
        found = [
            Result(f"step_ms/{count}", 1e3 * self.step_seconds, "ms", "lower"),
            Result(f"tokens_per_s/{count}", speeds["tokens_per_s"], "tokens/s"),
            Result(f"samples_per_s/{count}", speeds["samples_per_s"], "clips/s"),
            Result(f"compile_s/{count}", self.compile_seconds, "s", "lower"),
            Result(f"memory_gib/{count}/planned", self.planned / 2**30, "GiB", "lower"),
        ]
        if use := speeds.get("model_flop_use"):
            found.append(Result(f"model_flop_use/{count}", use, "of the bfloat16 peak"))
        return found


def bench() -> None:
    """Runs what the flags ask for."""
    model = model_config(_MODEL.value)
    counts = [int(count) for count in _DEVICES.value]
    here = jax.devices()
    if not all(1 <= count <= len(here) for count in counts):
        raise MirageError(f"--devices={','.join(_DEVICES.value)}: {len(here)} are here")
    data, styles = _data(model)
    parameters = count_parameters(model)
    print(f"{_MODEL.value}: {parameters / 1e6:.1f} M parameters, {styles} styles")
    done: list[Measured] = []
    for count in counts:
        with exhaustion_explained(f"{_MODEL.value} with remat={_REMAT.value}"):
            one = _measure(model, data, styles, count)
        done.append(one)
        speeds = one.work.speeds(one.step_seconds)
        print(
            f"{count} {here[0].device_kind}: {1e3 * one.step_seconds:.1f} ms a step, "
            f"{speeds['tokens_per_s']:.0f} tokens/s, "
            f"{100 * speeds.get('model_flop_use', math.nan):.1f}% of peak, "
            f"{one.planned / 2**30:.1f} GiB planned, loss {one.loss:.4f}",
            flush=True,
        )
        _write(done, styles, parameters)
    print(f"results in {_OUT.value}")
    if not all(math.isfinite(one.loss) for one in done):
        raise MirageError("a loss is not finite")


def _data(model: ModelConfig) -> tuple[DenoiserData, int]:
    """Random pictures and embeddings, and how many styles they are for."""
    only = tuple(_STYLES.value)
    styles = len(style_names(None, None, only))
    wordings = np.random.default_rng(0).normal(size=(styles, 1, TEXT_WIDTH))
    wordings /= np.linalg.norm(wordings, axis=-1, keepdims=True)
    data = DenoiserData(
        store=synthetic_store(jax.random.key(0)),
        codec=jax.jit(init_codec, static_argnums=1)(jax.random.key(1), model.codec),
        embeddings=jnp.asarray(wordings, jnp.float32),
        counts=jnp.ones(styles, jnp.int32),
        only=only,
    )
    return data, styles


def _measure(
    model: ModelConfig, data: DenoiserData, styles: int, count: int
) -> Measured:
    mesh = make_mesh(
        MeshConfig(-1, count if _FSDP.value == -1 else _FSDP.value),
        jax.devices()[:count],
    )
    config = TrainConfig(optimiser=_OPTIMISER.value)
    batch = ClipBatch(size=_SIZE.value, frames=_FRAMES.value, draws=_DRAWS.value)
    loss = make_denoiser_loss(model, batch, DenoiserLoss(remat=_REMAT.value))
    params = jax.jit(init_denoiser, static_argnums=1)(jax.random.key(2), model)
    state = init_state(config, params)
    del params  # the state has copies
    state = place(state, split(state, mesh))
    data = place(data, copied(data, mesh))
    rate = np.float32(1e-4)
    begin = time.perf_counter()
    whole_step: Any = make_step(config, loss, state, mesh)
    lowered = whole_step.lower(state, data, rate)
    quick: Any = None if jax.default_backend() == "gpu" else QUICK
    step = lowered.compile(compiler_options=quick)
    compile_seconds = time.perf_counter() - begin
    for _ in range(_WARMUP.value):
        state, metrics = step(state, data, rate)
    jax.block_until_ready(metrics)
    begin = time.perf_counter()
    for _ in range(_STEPS.value):
        state, metrics = step(state, data, rate)
    value = float(metrics["loss"])  # waits for the last step
    seconds = (time.perf_counter() - begin) / _STEPS.value
    plan = step.memory_analysis()
    work = clip_work(model, _SIZE.value, _FRAMES.value)
    return Measured(
        count,
        seconds,
        compile_seconds,
        plan.argument_size_in_bytes
        + plan.temp_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes,
        value,
        StepWork.of(mesh, styles * _DRAWS.value, work),
    )


def _write(done: list[Measured], styles: int, parameters: int) -> None:
    setup = device_setup() | host_setup()
    setup |= {
        "model": _MODEL.value,
        "size": _SIZE.value,
        "frames": _FRAMES.value,
        "styles": styles,
        "draws": _DRAWS.value,
        "remat": _REMAT.value,
        "optimiser": _OPTIMISER.value,
        "fsdp": _FSDP.value,
        "steps": _STEPS.value,
        "tokens_a_device_and_step": done[0].work.tokens // done[0].devices,
        "flops_a_device_and_step": done[0].work.flops // done[0].devices,
    }
    results = [result for one in done for result in one.results()]
    results.append(Result("parameters", parameters, "parameters", "lower"))
    peak, of = peak_memory()
    results.append(Result(f"memory_gib/peak/{of}", peak / 2**30, "GiB", "lower"))
    alone = next((one for one in done if one.devices == 1), None)
    for one in done:
        if alone is not None and one is not alone:
            # Each device does the same work: perfect is the same time a step.
            share = alone.step_seconds / one.step_seconds
            results.append(Result(f"scaling/{one.devices}", share, "of perfect"))
    write_results(_OUT.value, "experiments/bench_train.py", setup, results)


main = command("bench_train", bench)

if __name__ == "__main__":
    app.run(main)
