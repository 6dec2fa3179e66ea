"""Shows what the host does in one call of the frame program, and when the GPU works.

    python -m experiments.host_timeline --model=default
    python -m experiments.host_timeline --model=test --side=64 --out=timeline.json

The product's own compiled step runs on frames of noise, each of which is waited for:
first without the profiler, for how long a call takes until it returns and until its
frame is there; then under it, with the host's tracer at its finest and Python's off.
The spans of the host's threads are added up by name. Times of traced calls are longer
than those of others: they say where time goes, not how much a user waits. Writes one
JSON file, prints the longest spans. docs/profiling.md reads one.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments.call_timing import WARM_UP
from experiments.command import command
from experiments.frame_programs import FrameProgram
from experiments.host_setup import host_setup
from experiments.host_spans import (
    CALL,
    WAIT,
    Timeline,
    call_results,
    table,
    timeline_of,
    to_results,
)
from experiments.named_model import load_named
from experiments.source_feed import SourceFeed
from experiments.trace_events import profile_of
from mirage_jax.device_weights import held_weights
from mirage_jax.errors import MirageError
from mirage_jax.frame_compiler import settled
from mirage_jax.precision import fields_of, precision_of
from mirage_jax.results import device_setup, write_results
from mirage_jax.stream_config import StreamConfig
from pallas_kernels import device

_MODEL = flags.DEFINE_string("model", "default", "A named size, or a folder.")
_SIDE = flags.DEFINE_integer("side", 512, "Of the square frame, pixels.", 32)
_PRECISION = flags.DEFINE_string("precision", "auto", "As in benchmark.py.")
_STEPS = flags.DEFINE_integer("steps", 1, "Denoiser passes a frame: 1, 2 or 4.")
_CALLS = flags.DEFINE_integer("calls", 20, "That are traced.", 1)
_PLAIN = flags.DEFINE_integer("plain_calls", 200, "Timed without the profiler.", 1)
_LEAST = flags.DEFINE_float("least_us", 1.0, "Shorter spans are left out; a call.", 0.0)
_SHOWN = flags.DEFINE_integer("shown", 30, "Spans that are printed.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/timeline_<model>_<device>.json by default."
)

# Without it XLA runs no CUDA graph under a profiler, which then sees another program.
GRAPHS = "--xla_enable_command_buffers_during_profiling=true"
Moments = tuple[float, float]  # microseconds until the call returned, and its result


def host_timeline() -> None:
    """Times and traces what the flags ask for."""
    # XLA reads this once, when JAX first meets a device; it has not met one yet.
    ask_for_graphs()
    if _SIDE.value % 32:
        raise MirageError(f"--side={_SIDE.value}: take a multiple of 32")
    named = load_named(_MODEL.value)
    fields = fields_of(_PRECISION.value, jax.default_backend())
    stream = StreamConfig(_SIDE.value, _SIDE.value, steps=_STEPS.value, **fields)
    params = held_weights(named.params, stream)
    program = FrameProgram(named.config, stream)
    begin = time.perf_counter()
    step = program.lower(params).compile()
    print(f"compiled in {time.perf_counter() - begin:.1f} s", flush=True)
    state = jax.jit(program.open)(params)
    calls = _calls(step, params, state, _SIDE.value)

    for _ in range(WARM_UP):
        next(calls)
    plain = [next(calls) for _ in range(_PLAIN.value)]
    found = _traced(calls)
    card = device.present()
    if card is not None and found.kernels is None:
        raise MirageError("the profiler saw no kernel on the GPU: may it count there?")
    results = call_results("plain", *zip(*plain, strict=True))
    results += to_results(found, _LEAST.value)
    for one in results[:4]:
        print(f"{one.name}: {one.value:.1f} us")
    print(table(found, _SHOWN.value))

    slug = "cpu" if card is None else card.slug
    name = Path(_MODEL.value).name
    setup = device_setup() | host_setup()
    setup |= {
        "model": name,
        "weights": named.weights,
        "weights_sha256": named.sha256,
        "precision": precision_of(stream),
        "steps": stream.steps,
        "height": stream.height,
        "width": stream.width,
        "stream": str(settled(named.config, stream)),
        "arguments": len(jax.tree.leaves((params, state))) + 1,
        "calls": found.calls,
        "plain_calls": _PLAIN.value,
        "least_us": _LEAST.value,
    }
    out = _OUT.value or f"docs/results/timeline_{name}_{slug}.json"
    write_results(out, "experiments/host_timeline.py", setup, results)
    print(f"results in {out}")


def ask_for_graphs() -> None:
    """Adds `GRAPHS` to XLA_FLAGS, unless whoever set them has said something of it."""
    flag, now = GRAPHS.partition("=")[0], os.environ.get("XLA_FLAGS", "")
    if flag not in now:
        os.environ["XLA_FLAGS"] = f"{now} {GRAPHS}".strip()


def _calls(step: Any, params: Any, state: Any, side: int) -> Iterator[Moments]:
    """One call of the step after another, annotated, each waited for."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 1, side, side, 3), np.uint8)
    feed = SourceFeed(list(noise))
    while True:
        feed.ready()
        source = feed.take()
        begin = time.perf_counter()
        with jax.profiler.TraceAnnotation(CALL):
            state, styled = step(params, state, source)
        returned = time.perf_counter()
        with jax.profiler.TraceAnnotation(WAIT):
            styled.block_until_ready()
        there = time.perf_counter()
        # Its memory is that of the next source, as in a live stream.
        del source, styled
        yield 1e6 * (returned - begin), 1e6 * (there - begin)


def _traced(calls: Iterator[Moments]) -> Timeline:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 3

    def run() -> None:
        for _ in range(_CALLS.value):
            next(calls)

    return timeline_of(profile_of(run, options))


main = command("host_timeline", host_timeline)

if __name__ == "__main__":
    app.run(main)
