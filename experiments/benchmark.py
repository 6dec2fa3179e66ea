r"""The frame benchmark: source bytes to styled bytes on the present GPU, by the clock.

    python -m experiments.benchmark --config configs/lsd_880m.py
    python -m experiments.benchmark --model=default --precisions=bfloat16 --steps=1

Real frames of the embedded clip go through the product's own compiled step. Before any
time is taken, a frame in the middle of a stream is compared with the same frame in
float32; where it is wrong no time is recorded and the script exits with 1. Then frame
time, each frame waited for, and back to back, costs and memory. Parts beside these:

  transfers  the same with upload and download, one by one and double-buffered
  stages     encode, a pass, decode, other commits: what a frame takes less without them
  streams    1 to 16 streams side by side
  start      process start to first frame, compilation cache empty and full

docs/benchmarking.md says what each number is. Writes one JSON file after each part. A
size without trained weights runs on random ones, for timing only. With --interpret it
runs the smallest model on any device, to test the script itself.
"""

import fnmatch
import os
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

import mirage_jax
from experiments.benchmark_run import Amounts, Run, row_of
from experiments.call_timing import WARM_UP
from experiments.command import command
from experiments.frame_report import size_results, table
from experiments.host_setup import host_setup
from experiments.named_model import load_named, size_settings
from experiments.pass_programs import side_of
from experiments.side_by_side import QUICK
from experiments.starts import start_results, time_starts
from mirage_jax.chips import KINDS, Chip, chip_of, measured_chip
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.clips import load_clips
from mirage_jax.frame_compiler import settled
from mirage_jax.precision import fields_of, precision_of
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.stream_config import COMMITS
from pallas_kernels import device, timing

# Parts, and names of results that only they have.
PARTS = {
    "transfers": "host_fps/*",
    "stages": "stage_ms/*/frame/p50",
    "streams": "fps/*",
    "start": "start_s/*",
}

_CONFIG = flags.DEFINE_string(
    "config", "configs/lsd_880m.py", "Settings; flags go before them."
)
_MODEL = flags.DEFINE_string("model", None, "A named size, or a folder with weights.")
_TOKENS = flags.DEFINE_integer("tokens", None, "Of a square frame; 256 are 512x512.")
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["bfloat16", "int8", "float8"], "The first one's streams are counted."
)
_STEPS = flags.DEFINE_list("steps", ["1", "2"], "Denoiser passes a frame: 1, 2 or 4.")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "Measured beside the frame.")
_FRAMES = flags.DEFINE_integer("frames", 1000, "Of each row.", lower_bound=2)
_CLIP = flags.DEFINE_integer("clip_frames", 120, "Distinct source frames.", 2)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "In which stages are left out.", 1)
_CALLS = flags.DEFINE_integer("calls", 20, "Frames of a round.", 1)
_COMMITS = flags.DEFINE_list(
    "commits", ["clean", "lagged"], "Timed beside the merged one; of the first row."
)
_STREAMS = flags.DEFINE_list("streams", ["1", "2", "4", "8", "16"], "Side by side.")
_BATCHES = flags.DEFINE_integer("batches", 200, "Of each number of streams.", 1)
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the smallest model anywhere.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/benchmark_<model>_<device>.json by default."
)


def benchmark() -> None:
    """Runs what the flags ask for.

    Raises:
      MirageError: a flag means nothing, a frame was wrong, or nothing ran.
    """
    begin = time.perf_counter()
    # The children that start a stream need memory too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    steps, counts = _numbers("steps", _STEPS.value), _numbers("streams", _STREAMS.value)
    _known("parts", _PARTS.value, tuple(PARTS))
    _known("commits", _COMMITS.value, tuple(c for c in COMMITS if c != "merged"))
    for precision in _PRECISIONS.value:
        fields_of(precision)
    card = device.present()
    if card is None and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret runs a tiny model without")
    settings = size_settings(_CONFIG.value, "config")
    if card is None:
        settings |= {"model": "test", "tokens": (4,)}
    name = _MODEL.value or settings["model"]
    named = load_named(name)
    side = side_of(_TOKENS.value or settings["tokens"][0], named.config)
    assets = Path(mirage_jax.__file__).parent / "assets"
    clips = load_clips(assets, [side], _CLIP.value, 1)

    results: list[Result] = []
    slug = "interpreter" if card is None else card.slug
    out = _OUT.value or f"docs/results/benchmark_{Path(name).name}_{slug}.json"

    def add(found: list[Result]) -> None:
        results.extend(found)
        if found:
            print(table(found), flush=True)

    run = Run(
        named=named,
        side=side,
        clip=clips.frames[side][0],
        chips=_chips(card),
        amounts=Amounts(_FRAMES.value, _ROUNDS.value, _CALLS.value, _BATCHES.value),
        options=QUICK if card is None else None,
        add=add,
    )
    rows = [run.stream(p, n) for p in _PRECISIONS.value for n in steps]
    first = rows[0]
    setup = device_setup() | host_setup()
    setup |= {
        "model": Path(name).name,
        "weights": named.weights,
        "weights_sha256": named.sha256,
        "precision": precision_of(first),
        "steps": first.steps,
        "rows": {row_of(s): str(settled(named.config, s)) for s in rows},
        "height": side,
        "width": side,
        "window": named.config.denoiser.ring,
        "prompt": "one vector, its slots filled when the stream opened",
        "sources": [f"{clip}, {_CLIP.value} frames to and fro" for clip in clips.names],
        "frames": _FRAMES.value,
        "warm_up": WARM_UP,
        "rounds_of_stages": [_ROUNDS.value, _CALLS.value],
        "batches": _BATCHES.value,
        "chips": {whose: str(chip) for whose, chip in run.chips.items()},
        "interpret": card is None,
    }

    def write() -> None:
        """A run that is cut off keeps what it has."""
        now = {
            "parts": parts_in(results),
            "last_backends": run.backends,
            "refused": run.refused,
            "wrong": run.wrong,
            "seconds": round(time.perf_counter() - begin, 1),
        }
        write_results(out, "experiments/benchmark.py", setup | now, results)

    print(f"{name}, {named.weights}, {side}x{side} on {setup['device']}", flush=True)
    add(size_results(named.config, first))
    run.frames(rows, "transfers" in _PARTS.value)
    write()
    if "stages" in _PARTS.value:
        run.stages(rows, _COMMITS.value)
        write()
    if "streams" in _PARTS.value and run.right(first):
        run.streams(first, counts)
        write()
    if "start" in _PARTS.value:
        print("starts of a process of its own", flush=True)
        starts = time_starts(
            [
                *(f"--model={name}", f"--side={side}", f"--steps={first.steps}"),
                f"--precision={_PRECISIONS.value[0]}",
            ]
        )
        add(start_results(row_of(first), starts))
        setup["peak_of"] = starts["warm"]["peak_of"]
    write()
    print(f"results in {out} after {time.perf_counter() - begin:.0f} s")
    if run.wrong:
        raise MirageError(f"wrong: {', '.join(run.wrong)}")
    if not any(run.right(s) for s in rows):
        raise MirageError("nothing ran")


def parts_in(results: Sequence[Result]) -> list[str]:
    """The parts that were measured, whatever was asked for."""
    names = [result.name for result in results]
    return [part for part, pattern in PARTS.items() if fnmatch.filter(names, pattern)]


def _known(flag: str, words: list[str], known: tuple[str, ...]) -> None:
    for word in words:
        if word not in known:
            raise MirageError(f"--{flag}={word}: take of {', '.join(known)}")


def _numbers(flag: str, words: list[str]) -> list[int]:
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise MirageError(f"--{flag}={','.join(words)}: write numbers, as 1,2,4")
    return [int(word) for word in words]


def _chips(card: device.Device | None) -> dict[str, Chip]:
    """The device's ceilings, as they are measured here and as the vendor states."""
    small = card is None
    bandwidth = timing.copy_bandwidth(4 if small else 1024)
    rate = timing.matmul_rate(128 if small else 8192)
    print(f"copy {bandwidth / 1e9:.0f} GB/s, matrix products {rate / 1e12:.1f} TFLOP/s")
    chips = {
        "measured": measured_chip("" if card is None else card.kind, bandwidth, rate)
    }
    if card is not None and card.kind in KINDS:
        chips["stated"] = chip_of(card.kind)
    return chips


main = command("benchmark", benchmark)

if __name__ == "__main__":
    app.run(main)
