"""Do streams stay with the variant that they chose, of a style that has several?

    python -m experiments.variants --model=FOLDER --clips=path/to/held_out_clips \
        --modes=lagged/1,lagged/2

Opens many streams of every one-to-many style, each with a noise of its own, runs them
for 10,000 frames and says which variant they are nearest to, frame by frame;
docs/drift.md explains the numbers. Writes one JSON file, prints a table, and exits
with 1 where a bar is missed.
"""

import time

import jax
import numpy as np
from absl import app, flags

from experiments.command import command
from experiments.long_streams import WINDOW, load_long_streams
from mirage_jax.data.teachers import Style, all_styles
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.checks import Check
from mirage_jax.evaluation.variants import (
    choice_checks,
    choice_values,
    watch_choice,
)
from mirage_jax.evaluation.verdict import to_results
from mirage_jax.modes import parse_mode
from mirage_jax.results import write_results

_MODES = flags.DEFINE_list("modes", ["lagged/1", "merged/1"], "As commit/steps.")
_FRAMES = flags.DEFINE_integer("frames", 10_000, "Frames of a stream.", lower_bound=1)
_STREAMS = flags.DEFINE_integer(
    "streams", 8, "Streams of every style on every loop.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", "docs/results/variants.json", "Where results go.")


def varied(styler: object) -> tuple[Style, ...]:
    """The styles with variants; none of them needs the style network."""
    del styler
    return tuple(style for style in all_styles() if style.look is not None)


def variants() -> bool:
    """Runs what the flags ask for; whether a bar was missed."""
    begin = time.perf_counter()
    modes = [parse_mode(text) for text in dict.fromkeys(_MODES.value)]
    for mode in modes:
        if mode.free:
            raise MirageError(
                f"mode {mode.name}: a free run has nothing to compare with"
            )
    streams = load_long_streams(varied, _STREAMS.value, by_style=True)
    window = WINDOW.value
    frames = -(-_FRAMES.value // window) * window
    print(f"{len(streams.cases)} streams of {frames} frames, {len(modes)} modes")
    values: dict[str, float] = {"frames": frames}
    checks: list[Check] = []
    for number, mode in enumerate(modes):
        for place, style in enumerate(streams.styles):
            cases = [case for case in streams.cases if case.style == place]
            parts = [
                watch_choice(streams.endless, mode, style, part, streams.loops, frames)
                for part in streams.parts(cases)
            ]
            choice = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
            path = f"{style.name}/{mode.name}"
            found = choice_values(choice, window)
            values |= {f"{name}/{path}": value for name, value in found.items()}
            checks += choice_checks(found, path)
            told = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            print(f"{path}: {told}", flush=True)
            # As of now: a run that is cut off loses its last style alone.
            setup = streams.setup | {
                "modes": [mode.name for mode in modes[: number + 1]],
                "frames": frames,
                "streams": _STREAMS.value,
                "seconds": round(time.perf_counter() - begin, 1),
            }
            passed = {f"check/{check.name}": float(check.passed) for check in checks}
            results = to_results(values | passed)
            write_results(_OUT.value, "experiments/variants.py", setup, results)
    missed = [check for check in checks if not check.passed]
    for check in missed:
        print(check)
    print(f"{len(checks) - len(missed)} of {len(checks)} bars cleared; {_OUT.value}")
    return bool(missed)


main = command("variants", variants)

if __name__ == "__main__":
    app.run(main)
