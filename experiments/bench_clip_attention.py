"""Times attention of training clips, forward and with its gradient.

    python -m experiments.bench_clip_attention --model=lsd_880m --rows=13

One way after another (see `mirage_jax.clip_attention`): `kernel`, our own, which takes
all frames at once and skips what nobody sees; or so many neighbours at a time by
`--backend`, which is every pair where they are all frames. Correctness first: outputs
and gradients of two clips, of which one is anchored, against the definition in float32;
what is wrong is not timed. Then the median time of a call, and its share of the
bfloat16 peak, counting the pairs of frames that are seen and, as for training steps, a
gradient as two forward passes. Writes one JSON file, prints a line a way, exits with 1
where one is wrong.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array

from experiments.command import command
from mirage_jax.chips import CHIPS, KINDS
from mirage_jax.clip_attention import SKIPS, attend_clip, clip_slot_bias
from mirage_jax.config import DOWNSAMPLE, DenoiserConfig, model_config
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.training.work import PASSES, attention_flops

_MODEL = flags.DEFINE_string("model", "lsd_880m", "A size in mirage_jax.config.MODELS.")
_ROWS = flags.DEFINE_integer("rows", 13, "Clips side by side.", 1)
_SIZE = flags.DEFINE_integer("size", 512, "Height and width of the frames.")
_FRAMES = flags.DEFINE_integer("frames", 16, "Frames of a clip.", 1)
_WAYS = flags.DEFINE_list(
    "ways", ["kernel", "2", "4", "16"], "kernel, or neighbours at a time."
)
_BACKEND = flags.DEFINE_string("backend", None, "Of groups; None chooses.")
_CALLS = flags.DEFINE_integer("calls", 20, "Calls that are timed.", 1)
_OUT = flags.DEFINE_string("out", "outputs/clip_attention.json", "The JSON file.")

# Of bfloat16: operands, weights and sums are each rounded, by up to 0.4 %.
_TOLERANCE = 0.02

KERNEL = "kernel"
Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Clips:
    """What attention is given: `rows` clips with the sizes of a model."""

    config: DenoiserConfig
    rows: int
    frames: int
    size: int

    @property
    def tokens(self) -> int:
        side = self.size // DOWNSAMPLE
        return self.config.frame_tokens((side, side))

    @property
    def flops(self) -> int:
        """Of the products forward, for the keys that a frame sees."""
        return self.rows * attention_flops(self.config, self.tokens, self.frames)

    def operands(self, dtype: Any) -> tuple[Any, ...]:
        """q, k, v, the prompt's k and v, the table of biases, and a slope."""
        c, keys = self.config, iter(jax.random.split(jax.random.key(0), 7))

        def drawn(count: int) -> Array:
            shape = (self.rows, count, c.heads, c.head_width)
            return jax.random.normal(next(keys), shape).astype(dtype)

        q, k, v, slope = (drawn(self.frames * self.tokens) for _ in range(4))
        prompt = drawn(c.prompt_tokens), drawn(c.prompt_tokens)
        table = jax.random.normal(next(keys), (c.heads, c.ring + 3))
        return q, k, v, prompt, table, slope

    def attention(self, way: str, backend: str | None) -> tuple[Call, Call]:
        """Forward, and forward with the slopes of all operands."""
        anchored = jnp.arange(self.rows) % 2 == 0
        how: dict[str, Any] = {"neighbours": None, "backend": SKIPS}
        if way != KERNEL:
            how = {"neighbours": int(way), "backend": backend}

        def forward(q: Array, k: Array, v: Array, prompt: Any, table: Array) -> Array:
            bias = clip_slot_bias(table, self.frames, anchored)
            return attend_clip(*(q, k, v, prompt, bias, self.config.ring), **how)

        def with_slopes(*operands: Any) -> Any:
            *given, slope = operands
            found, pull = jax.vjp(forward, *given)
            return found, pull(slope)

        return lambda *operands: forward(*operands[:-1]), with_slopes


def bench() -> None:
    """Runs what the flags ask for; raises MirageError where a way is wrong."""
    ways = _WAYS.value
    if not all(way == KERNEL or (way.isdecimal() and int(way)) for way in ways):
        raise MirageError(
            f"--ways={','.join(ways)}: take {KERNEL}, and numbers from 1 on"
        )
    config = model_config(_MODEL.value).denoiser
    clips = Clips(config, _ROWS.value, _FRAMES.value, _SIZE.value)
    chip = CHIPS.get(KINDS.get(jax.devices()[0].device_kind, ""))
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    operands = clips.operands(dtype)
    results, wrong = [], []
    for way in ways:
        try:
            error = _error(clips, way, dtype)
        except NotImplementedError as problem:
            raise MirageError(f"--ways={way}: {problem}") from problem
        told = [f"{way}: error {error:.4f}"]
        if not error <= _TOLERANCE:  # a NaN neither
            wrong.append(way)
            print(*told, flush=True)
            continue
        results.append(Result(f"error/{way}", error, "of the largest", "lower"))
        for name, call, passes in zip(
            ("forward", "gradient"),
            clips.attention(way, _BACKEND.value),
            (1, PASSES),
            strict=True,
        ):
            seconds = _median(call, operands)
            path = f"{name}/{way}"
            results.append(Result(f"ms/{path}", 1e3 * seconds, "ms", "lower"))
            told.append(f"{name} {1e3 * seconds:.2f} ms")
            if chip is not None:
                use = passes * clips.flops / seconds / chip.rate("bfloat16")
                results.append(Result(f"use/{path}", use, "of the bfloat16 peak"))
                told[-1] += f" ({100 * use:.1f}% of peak)"
        print(", ".join(told), flush=True)
    setup = device_setup() | {
        "model": _MODEL.value,
        "rows": clips.rows,
        "frames": clips.frames,
        "size": clips.size,
        "dtype": jnp.dtype(dtype).name,
        "backend": _BACKEND.value,
        "calls": _CALLS.value,
    }
    write_results(_OUT.value, "experiments/bench_clip_attention.py", setup, results)
    print(f"results in {_OUT.value}")
    if wrong:
        raise MirageError(f"{', '.join(wrong)}: outputs or gradients are wrong")


def _error(clips: Clips, way: str, dtype: Any) -> float:
    """Largest error of two clips' outputs and slopes, over the largest of each."""
    two = dataclasses.replace(clips, rows=2)
    operands = two.operands(dtype)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), operands)
    _, ours = two.attention(way, _BACKEND.value)
    _, definition = two.attention(str(two.frames), "reference")
    errors = []
    for found, expected in zip(
        *map(jax.tree.leaves, (jax.jit(ours)(*operands), jax.jit(definition)(*wide))),
        strict=True,
    ):
        apart = jnp.abs(found.astype(jnp.float32) - expected).max()
        errors.append(float(apart / jnp.abs(expected).max()))
    return float(np.max(errors))  # a NaN stays one


def _median(call: Call, operands: tuple[Any, ...]) -> float:
    program = jax.jit(call).lower(*operands).compile()
    seconds = []
    for _ in range(3 + _CALLS.value):
        begin = time.perf_counter()
        jax.block_until_ready(program(*operands))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[3:])


main = command("bench_clip_attention", bench)

if __name__ == "__main__":
    app.run(main)
