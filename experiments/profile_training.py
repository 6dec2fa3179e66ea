"""Lists what a training step of the denoiser spends its time on, scope by scope.

    python -m experiments.profile_training --config=configs/train_denoiser.py:rollout \
        --config.data=runs/data --config.codec=runs/codec/codec.safetensors \
        --config.init=runs/denoiser_pixel/denoiser.safetensors

Compiles the programs of a stage as experiments/train_denoiser.py does, runs a few steps
of each under JAX's profiler, and adds up what the device notes of every operation by
the part of the step that it came from: drawing clips, each teacher, encoding, the
denoiser, decoding. CUDA graphs are off then, so that operations keep their names; a
step is also timed with those of `--graphs`. Writes one JSON file, prints a table.
`--config.data=synthetic --config.model=test --config.codec=` is a smoke run.
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
from mirage_jax.errors import MirageError
from mirage_jax.frame_compiler import GRAPH_COMMANDS, GRAPH_OPTION
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.training.mesh import MeshConfig, copied, make_mesh, place, split
from mirage_jax.training.step import init_state, make_step

_CONFIG = config_flags.DEFINE_config_file("config", "configs/train_denoiser.py")
_PROGRAMS = flags.DEFINE_list("programs", [], "Of the stage, by name; empty: all.")
_GRAPHS = flags.DEFINE_list(
    "graphs",
    ["default"],
    "What a CUDA graph may hold where a step is timed: default, as XLA chooses, or "
    "loops: loops, branches and convolutions too.",
)
_STEPS = flags.DEFINE_integer("traced", 3, "Steps of each program that are traced.", 1)
_OUT = flags.DEFINE_string("out", "outputs/profile_training.json", "The JSON file.")

WARM_UP = 2
_OFF = {GRAPH_OPTION: ""}
_ON: dict[str, dict[str, str]] = {
    "default": {},
    "loops": {GRAPH_OPTION: ",".join((*GRAPH_COMMANDS, "WHILE", "CONDITIONAL"))},
}


def profile_training(config: config_dict.ConfigDict) -> None:
    """Traces each program of a stage on one device."""
    for graphs in _GRAPHS.value:
        if graphs not in _ON:
            raise MirageError(f"--graphs={graphs}: take of {', '.join(_ON)}")
    stage = load_stage(config)
    names = [program.name for program in stage.programs]
    for name in _PROGRAMS.value:
        if name not in names:
            raise MirageError(f"--programs={name}: this stage has {', '.join(names)}")
    results: list[Result] = []
    for program in stage.programs:
        if _PROGRAMS.value and program.name not in _PROGRAMS.value:
            continue
        found, step_ms, graphs_ms = _profile(stage, program)
        print(_table(program.name, found, step_ms), flush=True)
        results.append(Result(f"step_ms/{program.name}", step_ms, "ms", "lower"))
        for graphs, ms in graphs_ms.items():
            print(f"{program.name}: {ms:.1f} ms a step, graphs: {graphs}", flush=True)
            name = f"step_ms/{program.name}/{graphs}"
            results.append(Result(name, ms, "ms", "lower"))
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
        "step_ms_means": "one step after another, without the profiler; without CUDA "
        "graphs, or with those that the name tells",
    }
    write_results(_OUT.value, "experiments/profile_training.py", setup, results)
    print(f"results in {_OUT.value}")


def _profile(
    stage: Stage, program: Program
) -> tuple[dict[str, tuple[float, float]], float, dict[str, float]]:
    """Milliseconds and operations of a step by scope, its own time, and with graphs."""
    mesh = make_mesh(MeshConfig(1, 1), jax.devices()[:1])
    state = init_state(stage.settings, stage.params)
    state = place(state, split(state, mesh))
    data = place(stage.data, copied(stage.data, mesh))
    rate = np.float32(0)  # the weights stay as they are
    step: Any = make_step(stage.settings, program.loss, state, mesh)
    lowered = step.lower(state, data, rate)
    on_gpu = jax.default_backend() == "gpu"

    def steps(compiled: Any, count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = compiled(state, data, rate)
        jax.block_until_ready((state, metrics))

    def timed(compiled: Any) -> float:
        steps(compiled, WARM_UP)
        begin = time.perf_counter()
        steps(compiled, _STEPS.value)
        return 1e3 * (time.perf_counter() - begin) / _STEPS.value

    compiled = lowered.compile(compiler_options=_OFF if on_gpu else {})
    step_ms = timed(compiled)
    profile = profile_of(functools.partial(steps, compiled, _STEPS.value))
    text = compiled.as_text()
    module = text.split(maxsplit=2)[1].rstrip(",")  # HloModule jit_one_step, ...
    found = scope_times(profile, scopes_of(text, stage.styles), module)
    each = {
        scope: (ms / _STEPS.value, count / _STEPS.value)
        for scope, (ms, count) in found.items()
    }
    graphs_ms = {
        graphs: timed(lowered.compile(compiler_options=_ON[graphs]))
        for graphs in _GRAPHS.value
        if on_gpu  # nothing else has any
    }
    return each, step_ms, graphs_ms


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
