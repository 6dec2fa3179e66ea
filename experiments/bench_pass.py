"""Checks and times one denoiser pass, and the whole stream step, on the present GPU.

    python -m experiments.bench_pass --size=configs/lsd_880m.py
    python -m experiments.bench_pass --model=default --combinations=xla,kernels

A size that has no trained weights runs on random ones, which are good for timing only.
A pass is stem, all blocks and head of one frame of one stream, with the commit into
the donated cache and no codec; the step is a frame from bytes to bytes. All
combinations of backends and precisions run in the same process, on the same weights.
Correctness first: latents and committed K and V of a pass against float32. Then a
pass by calls from the host that do not wait (the device's own time) and by calls that
wait for each result (p50, p95, p99), with --programs also in one compiled program of
many. They stand beside the floor that `mirage_jax.cost_model` counts. Writes one JSON
file after each combination, prints a table, exits with 1 where an output is wrong or no
combination ran. With --interpret it runs the smallest model on any device, to test the
script itself.
"""

import time
from typing import Any

import jax
from absl import app, flags

from experiments.command import command
from experiments.named_model import load_named, size_settings
from experiments.pass_programs import Pass, side_of, stream_of
from experiments.pass_report import Goals, Measured, table, to_results
from experiments.pass_timing import Job, measure
from experiments.side_by_side import QUICK
from mirage_jax.chips import measured_chip
from mirage_jax.config import ModelConfig
from mirage_jax.cost_model import count_parameters, floor_seconds, pass_stages
from mirage_jax.device_weights import device_weights
from mirage_jax.errors import MirageError
from mirage_jax.profiling import runs_folder
from mirage_jax.results import device_setup, write_results
from mirage_jax.stream_config import StreamConfig
from pallas_kernels import device, timing

_SIZE = flags.DEFINE_string(
    "size", "configs/lsd_880m.py", "Settings; flags go before them."
)
_MODEL = flags.DEFINE_string("model", None, "A named size, or a folder with weights.")
_TOKENS = flags.DEFINE_list("tokens", [], "Tokens a frame, square numbers.")
_COMBINATIONS = flags.DEFINE_list(
    "combinations",
    ["kernels", "kernels+int8", "kernels+float8", "xla"],
    "What runs: see experiments/pass_programs.py.",
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["pass"], "Of pass, chain and step: what is compiled and timed."
)
_CALLS = flags.DEFINE_integer("calls", 300, "Calls from the host.")
_PASSES = flags.DEFINE_integer("passes", 50, "Passes in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of it; the median counts.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the smallest model anywhere.")
_PROFILE_DIR = flags.DEFINE_string(
    "profile_dir", "", "Folder for traces, docs/profiling.md; none by default."
)
_STRICT = flags.DEFINE_bool("strict", False, "Exit with 1 where a goal is missed.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/pass_<model>_<device>.json by default."
)


def bench() -> bool:
    """Runs what the flags ask for; whether a goal was missed that had to be met."""
    begin = time.perf_counter()
    card = device.present()
    if card is None and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret runs a tiny model without")
    if _PROFILE_DIR.value:
        runs_folder(_PROFILE_DIR.value)  # fails now, if it must
    settings = _settings(card is None)
    name, goals = settings["model"], Goals(*settings["goals"])
    named = load_named(name)
    model = named.config
    bandwidth = timing.copy_bandwidth(4 if card is None else 1024)
    rate = timing.matmul_rate(128 if card is None else 8192)
    print(f"copy {bandwidth / 1e9:.0f} GB/s, matrix products {rate / 1e12:.1f} TFLOP/s")
    chip = measured_chip("" if card is None else card.kind, bandwidth, rate)
    parameters = count_parameters(model)
    print(f"{name}: {parameters / 1e6:.1f} M parameters, {named.weights}")

    jobs = _jobs(model, settings["tokens"], card is not None)
    held = _held(named.params, jobs)
    setup = device_setup() | {
        "model": name,
        "weights": named.weights,
        "batch": 1,
        "tokens": settings["tokens"],
        "copy_bytes_per_s": bandwidth,
        "matmul_flops_per_s": rate,
        "floor": "stages one after another, 8-bit products at twice the measured rate",
        "calls": _CALLS.value,
        "passes_in_a_program": _PASSES.value,
        "repeats": _REPEATS.value,
        "interpret": card is None,
    }
    slug = "interpreter" if card is None else card.slug
    out = _OUT.value or f"docs/results/pass_{name}_{slug}.json"
    done: list[Measured] = []
    for tokens in settings["tokens"]:
        here = [job for job in jobs if job.tokens == tokens]
        wanted = _exact(here[0], held[None])
        for job in here:
            weights_of_job = held[job.precision]
            job.compile(weights_of_job)
            floor = 1e3 * floor_seconds(pass_stages(model, job.runs.stream), chip)
            found = measure(
                job,
                weights_of_job,
                wanted,
                floor,
                _CALLS.value,
                _REPEATS.value,
                _PROFILE_DIR.value and f"{_PROFILE_DIR.value}/{job.path}",
            )
            job.compiled.clear()  # and its buffers
            done.append(found)
            print(table(found, goals), flush=True)
            # A run that is cut off keeps what it has.
            ran = jobs[: len(done)]
            setup |= {
                "combinations": {job.path: str(job.runs.stream) for job in ran},
                "refused": {job.path: job.refusal for job in ran if job.refusal},
                "seconds": round(time.perf_counter() - begin, 1),
            }
            results = to_results(done, parameters)
            write_results(out, "experiments/bench_pass.py", setup, results)
    print(f"results in {out} after {setup['seconds']} s")
    wrong = [one.path for one in done if not one.correct]
    if wrong:
        raise MirageError(f"wrong: {', '.join(wrong)}")
    if all(one.refusal for one in done):
        raise MirageError("no combination ran")
    return _STRICT.value and any(goals.missed(one) for one in done)


def _settings(small: bool) -> dict[str, Any]:
    """The config's values, with those that flags give in their place."""
    settings = size_settings(_SIZE.value, "size")
    if small:
        settings |= {"model": "test", "tokens": (4, 16)}
    if _MODEL.value is not None:
        settings["model"] = _MODEL.value
    if _TOKENS.value:
        settings["tokens"] = tuple(int(count) for count in _TOKENS.value)
    return settings


def _jobs(model: ModelConfig, counts: Any, on_gpu: bool) -> list[Job]:
    unknown = set(_PROGRAMS.value) - {"pass", "chain", "step"}
    if unknown or "pass" not in _PROGRAMS.value:
        raise MirageError("--programs are of pass, chain and step, and one is pass")
    jobs = []
    for tokens in counts:
        side = side_of(tokens, model)
        for combination in _COMBINATIONS.value:
            runs = Pass(model, stream_of(combination, side, on_gpu))
            names = tuple(_PROGRAMS.value)
            options = None if on_gpu else QUICK
            jobs.append(Job(combination, tokens, runs, _PASSES.value, names, options))
    return jobs


def _held(params: Any, jobs: list[Job]) -> dict[str | None, Any]:
    """Weights in every precision that a job asks for."""
    convert = jax.jit(device_weights, static_argnums=1)
    params = convert(params, StreamConfig())
    held: dict[str | None, Any] = {None: params}
    for wanted in {job.precision for job in jobs} - held.keys():
        held[wanted] = convert(params, StreamConfig(eight_bit=wanted))
    return held


def _exact(job: Job, params: Any) -> Any:
    """What a pass should leave, float32."""
    carry = jax.jit(job.runs.carry)(params["denoiser"])
    exact = jax.jit(job.runs.exact(), donate_argnums=1)
    return jax.jit(job.runs.outcome)(exact(params["denoiser"], carry))


main = command("bench_pass", bench)

if __name__ == "__main__":
    app.run(main)
