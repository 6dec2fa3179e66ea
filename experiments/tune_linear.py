"""Times configurations of the Hopper dense layers on the present GPU.

    python -m experiments.tune_linear --layers=up,down --formats=bfloat16,int8

For each layer of the 880M model, number of rows and format: compiles the likeliest
configurations side by side, compares each with the definition in float32, and times
those that are right, beside XLA, with weights that no cache holds. Prints the fastest
and writes all into one JSON file.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from absl import app, flags

from experiments.command import command
from experiments.dense_layers import LAYERS, operands, step
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from pallas_kernels import device, timing
from pallas_kernels.linear.config import Config, search_space

_LAYERS = flags.DEFINE_list("layers", list(LAYERS), "Names of layers.")
_ROWS = flags.DEFINE_list("rows", ["256"], "Numbers of tokens.")
_FORMATS = flags.DEFINE_list("formats", ["bfloat16"], "bfloat16, int8, float8_e4m3fn.")
_MOST = flags.DEFINE_integer("most", 12, "Most configurations tried, a case.")
_CONFIGS = flags.DEFINE_multi_string(
    "config", [], "Numbers of a Config in its order, 128,192,64,2,2,5,2,1: these alone."
)
_CALLS = flags.DEFINE_integer("calls", 96, "Calls in one program.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of a program; the median counts.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Compiling threads; 0: one a CPU core.")
_OUT = flags.DEFINE_string("out", "linear_times.json", "Results.")


def tune() -> None:
    """Runs what the flags ask for; raises MirageError where the kernel is wrong."""
    card = device.present()
    if card is None:
        raise MirageError("no NVIDIA GPU here")
    given = [Config(*(int(n) for n in text.split(","))) for text in _CONFIGS.value]
    cases = [
        (name, int(rows), to)
        for name in _LAYERS.value
        for rows in _ROWS.value
        for to in _FORMATS.value
    ]
    results: list[Result] = []
    wrong: list[str] = []
    with ThreadPoolExecutor(_WORKERS.value or os.cpu_count()) as pool:
        for name, rows, to in cases:
            label = f"{name}_{rows}/{to}"
            _case(label, name, rows, to, given, card.cores, pool, results, wrong)
    write_results(_OUT.value, "experiments/tune_linear.py", device_setup(), results)
    print(f"results in {_OUT.value}")
    if wrong:
        raise MirageError(f"wrong: {', '.join(wrong)}")


def _label(config: Config | None) -> str:
    return "xla" if config is None else "_".join(str(n) for n in vars(config).values())


def _case(
    label: str,
    name: str,
    rows: int,
    to: str,
    given: list[Config],
    cores: int,
    pool: ThreadPoolExecutor,
    results: list[Result],
    wrong: list[str],
) -> None:
    layer = LAYERS[name]
    began = time.perf_counter()
    carry, sets = operands(layer, rows, to)
    exact = jax.jit(step(layer, to, "reference"))(carry, sets[0])[1]
    space = given or search_space(layer.problem(rows, to), cores, _MOST.value)
    tried: list[Config | None] = [None, *space]

    def build(config: Config | None) -> Any:
        one = step(layer, to, "xla" if config is None else "mosaic", config)
        try:
            return timing.compile_chain(one, carry, sets, _CALLS.value)
        except Exception as failure:  # a configuration may fail in any way
            return f"{type(failure).__name__}: {str(failure).splitlines()[0][:160]}"

    lines = []
    # All compiled before the first is timed: compilers would take the host's time.
    for config, chain in zip(tried, list(pool.map(build, tried)), strict=True):
        if isinstance(chain, str):
            print(f"  {label} {_label(config)} {chain}")
            continue
        timed = chain.time(carry, sets, _REPEATS.value)
        error = timing.relative_error(timed.first[1], exact)
        right = error <= 1e-2  # rounded to bfloat16, perhaps to either side
        if not right:
            wrong.append(f"{label}/{_label(config)}")
        path = f"{label}/{_label(config)}"
        results.append(Result(f"us/{path}", timed.microseconds, "us", "lower"))
        results.append(Result(f"error/{path}", error, "", "lower"))
        mark = "" if right else " WRONG"
        lines.append(
            (
                timed.microseconds,
                f"  {_label(config):28} {timed.microseconds:7.2f} us"
                f" +-{timed.spread:.2f} error {error:.1e}{mark}",
            )
        )
    print(f"{label}: {time.perf_counter() - began:.1f} s", flush=True)
    for _, line in sorted(lines):
        print(line, flush=True)


main = command("tune_linear", tune)

if __name__ == "__main__":
    app.run(main)
