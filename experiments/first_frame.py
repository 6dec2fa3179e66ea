"""Starts a stream in a fresh process and says when its first frame was there.

    python -m experiments.first_frame --model=default

It does what a program that opens a stream does: loads the weights, puts them on the
device, opens the stream, compiles the step and styles a frame of noise, which it waits
for on the host. The prompt is some vector; no text is encoded. Prints one line of JSON:
the clock (`time.monotonic`, which all processes of a machine share), seconds by part,
and bytes of the device's memory after a few frames. experiments/benchmark.py runs it.
"""

import json
import time
from pathlib import Path

BEGIN = time.monotonic()  # before anything large is imported

import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from experiments.command import command  # noqa: E402
from experiments.named_model import load_named  # noqa: E402
from mirage_jax.config import TEXT_WIDTH  # noqa: E402
from mirage_jax.device_memory import live_memory, peak_memory  # noqa: E402
from mirage_jax.precision import fields_of  # noqa: E402
from mirage_jax.stream_config import StreamConfig  # noqa: E402
from mirage_jax.stream_driver import StreamDriver  # noqa: E402
from mirage_jax.weights import Model  # noqa: E402

_MODEL = flags.DEFINE_string("model", "default", "A named size, or a folder.")
_SIDE = flags.DEFINE_integer("side", 512, "Of the square frame, pixels.")
_PRECISION = flags.DEFINE_string("precision", "bfloat16", "As in benchmark.py.")
_STEPS = flags.DEFINE_integer("steps", 1, "Denoiser passes a frame.")
_FRAMES = flags.DEFINE_integer("frames", 20, "Run before memory is read.")
_OUT = flags.DEFINE_string("out", None, "Where the line of JSON goes beside stdout.")


def first_frame() -> None:
    """Runs what the flags ask for."""
    times = {"imports": time.monotonic()}
    side = _SIDE.value
    stream = StreamConfig(side, side, steps=_STEPS.value, **fields_of(_PRECISION.value))
    named = load_named(_MODEL.value)
    driver = StreamDriver(
        Model(named.config, named.params, named.sha256 or "none"), stream
    )
    del named
    prompt = np.full(TEXT_WIDTH, TEXT_WIDTH**-0.5, np.float32)
    driver.open(prompt, seed=0)
    times["weights"] = time.monotonic()
    noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    np.asarray(driver.step(noise))
    times["first frame"] = time.monotonic()
    for _ in range(_FRAMES.value):
        np.asarray(driver.step(noise))
    ends = list(times.values())
    parts = zip(times, ends, [BEGIN, *ends], strict=False)
    peak, kind = peak_memory()
    said = {
        "clock": times["first frame"],
        "seconds": {name: round(end - begin, 2) for name, end, begin in parts},
        "live": live_memory(),
        "peak": peak,
        "peak_of": kind,
    }
    text = json.dumps(said)
    print(text)
    if _OUT.value:
        Path(_OUT.value).write_text(text, encoding="utf-8")


main = command("first_frame", first_frame)

if __name__ == "__main__":
    app.run(main)
