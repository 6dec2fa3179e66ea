"""Lists what a training step of the denoiser spends its time on, scope by scope.

    python -m experiments.profile_training --config=configs/train_denoiser.py:rollout \
        --config.data=runs/data --config.codec=runs/codec/codec.safetensors \
        --config.init=runs/denoiser_pixel/denoiser.safetensors

Compiles the programs of a stage as experiments/train_denoiser.py does, runs a few steps
of each under JAX's profiler, and adds up what the device notes of every operation by
the part of the step that it came from: drawing clips, each teacher, encoding, the
denoiser, decoding. Command buffers are off, so that operations keep their names. Writes
one JSON file, prints a table. `--config.data=synthetic --config.model=test
--config.codec=` is a smoke run.
"""

import functools
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_dict, config_flags

from experiments.command import command
from experiments.denoiser_stage import Program, Stage, load_stage
from experiments.host_setup import host_setup
from experiments.trace_events import profile_of
from experiments.training_scopes import scope_times, scopes_of
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.training.mesh import MeshConfig, copied, make_mesh, place, split
from mirage_jax.training.step import init_state, make_step

_CONFIG = config_flags.DEFINE_config_file("config", "configs/train_denoiser.py")
_STEPS = flags.DEFINE_integer("traced", 3, "Steps of each program that are traced.", 1)
_OUT = flags.DEFINE_string("out", "outputs/profile_training.json", "The JSON file.")

WARM_UP = 2


def profile_training(config: config_dict.ConfigDict) -> None:
    """Traces each program of a stage on one device."""
    stage = load_stage(config)
    results: list[Result] = []
    for program in stage.programs:
        found, step_ms = _profile(stage, program)
        print(_table(program.name, found, step_ms), flush=True)
        results.append(Result(f"step_ms/{program.name}", step_ms, "ms", "lower"))
        for scope, (ms, count) in found.items():
            name = f"{program.name}/{scope}"
            results.append(Result(f"ms/{name}", round(ms, 3), "ms", "lower"))
            results.append(Result(f"operations/{name}", count, "", "lower"))
    setup = device_setup() | host_setup()
    setup |= {
        "model": config.model,
        "sizes": list(config.sizes),
        "frames": config.frames,
        "styles": len(stage.styles),
        "rollout": config.rollout.to_dict(),
        "traced": _STEPS.value,
        "step_ms_means": "one step after another, without the profiler",
    }
    write_results(_OUT.value, "experiments/profile_training.py", setup, results)
    print(f"results in {_OUT.value}")


def _profile(
    stage: Stage, program: Program
) -> tuple[dict[str, tuple[float, float]], float]:
    """Milliseconds and operations of a step by scope, and the step's own time."""
    mesh = make_mesh(MeshConfig(1, 1), jax.devices()[:1])
    state = init_state(stage.settings, stage.params)
    state = place(state, split(state, mesh))
    data = place(stage.data, copied(stage.data, mesh))
    rate = np.float32(0)  # the weights stay as they are
    step: Any = make_step(stage.settings, program.loss, state, mesh)
    options = {}
    if jax.default_backend() == "gpu":
        options = {"xla_gpu_enable_command_buffer": ""}
    compiled = step.lower(state, data, rate).compile(compiler_options=options)

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = compiled(state, data, rate)
        jax.block_until_ready((state, metrics))

    steps(WARM_UP)
    begin = time.perf_counter()
    steps(_STEPS.value)
    step_ms = 1e3 * (time.perf_counter() - begin) / _STEPS.value
    profile = profile_of(functools.partial(steps, _STEPS.value))
    text = compiled.as_text()
    module = text.split(maxsplit=2)[1].rstrip(",")  # HloModule jit_one_step, ...
    found = scope_times(profile, scopes_of(text, stage.styles), module)
    each = {
        scope: (ms / _STEPS.value, count / _STEPS.value)
        for scope, (ms, count) in found.items()
    }
    return each, step_ms


def _table(name: str, found: dict[str, tuple[float, float]], step_ms: float) -> str:
    total = sum(ms for ms, _ in found.values())
    lines = [f"{name}: {step_ms:.1f} ms a step, {total:.1f} ms in its operations"]
    lines += [
        f"  {ms:9.2f} ms  {count:7.0f} operations  {scope}"
        for scope, (ms, count) in found.items()
    ]
    return "\n".join(lines)


main = command("profile_training", lambda: profile_training(_CONFIG.value))

if __name__ == "__main__":
    app.run(main)
