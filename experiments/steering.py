"""Does a stream do what its prompt says?

    python -m experiments.steering --clips=path/to/held_out_clips

Three questions. Every wording of every style opens a stream: whose teacher are its
pictures most like? Every style's prompt is changed to the next one's while the stream
runs: how many frames until PSNR stays within 1 dB of its steady state? Then the stream
is reset: does it keep its prompt? Writes one JSON file, prints a table of which wording
led where, and exits with 1 where a bar is missed.
"""

import dataclasses
import time
from collections import Counter

import jax
import numpy as np
from absl import app, flags

from experiments.command import command
from experiments.long_streams import LongStreams, load_long_streams
from mirage_jax.errors import MirageError
from mirage_jax.evaluation import drift, steering
from mirage_jax.evaluation.checks import Check
from mirage_jax.evaluation.endless import Endless
from mirage_jax.evaluation.quality import Case
from mirage_jax.evaluation.settling import frames_until
from mirage_jax.evaluation.verdict import to_results
from mirage_jax.modes import Mode, parse_mode
from mirage_jax.results import write_results
from mirage_jax.stream import reset, set_prompt
from mirage_jax.text import encode_text

_MODE = flags.DEFINE_string("mode", "merged/1", "As commit/steps.")
_OUT = flags.DEFINE_string("out", "docs/results/steering.json", "Where results go.")

_COMPARED = 4  # frames at the end of a loop


def steer() -> bool:
    """Asks all three questions; whether a bar was missed."""
    begin = time.perf_counter()
    mode = parse_mode(_MODE.value)
    if mode.free:
        raise MirageError(f"--mode={mode.name}: prompts are judged with a source")
    streams = load_long_streams()
    if len(streams.styles) < 2:
        raise MirageError("--styles: name two at least, to go from one to another")
    values, checks = _switches(streams, mode)
    confusion = _confusion(streams, mode)
    total = Counter[str]()
    for (style, nearest), count in confusion.items():
        total[style] += count
        values[f"confusion/{style}/{nearest}"] = float(count)
    for name, value in values.items():
        if name.startswith("confusion/"):
            values[name] = value / total[name.split("/")[1]]
    right = {style: confusion[style, style] / total[style] for style in total}
    values |= {f"wording_right/{style}": share for style, share in right.items()}
    mean = float(np.mean(list(right.values())))
    values["wording_right_mean"] = mean
    checks.append(Check("wording_right_mean", mean, steering.RIGHT))

    values |= {f"check/{check.name}": float(check.passed) for check in checks}
    setup = streams.setup | {
        "mode": mode.name,
        "wordings": {name: list(texts) for name, texts in streams.wordings.items()},
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_results(_OUT.value, "experiments/steering.py", setup, to_results(values))
    for (style, nearest), count in sorted(confusion.items()):
        print(f"{style:>14} -> {nearest:<14} {count}")
    for check in checks:
        if not check.passed:
            print(check)
    passed = sum(check.passed for check in checks)
    print(f"{passed} of {len(checks)} bars cleared; results in {_OUT.value}")
    return passed < len(checks)


def _confusion(streams: LongStreams, mode: Mode) -> Counter[tuple[str, str]]:
    """How often a wording of one style led to pictures most like another's teacher."""
    endless, names = streams.endless, [style.name for style in streams.styles]
    config = endless.of_mode(mode)
    before = endless.prompts
    pictures: list[tuple[Case, np.ndarray]] = []
    targets: dict[Case, np.ndarray] = {}
    for part in streams.parts(streams.cases):
        opening, _ = endless.rounds(config, part, streams.loops)
        ends = np.asarray(opening.target[-_COMPARED:])
        targets |= {case: ends[:, place] for place, case in enumerate(part)}
        for number in range(max(map(len, streams.wordings.values()))):
            # A style with fewer wordings has its first ones again.
            texts = [text[number % len(text)] for text in streams.wordings.values()]
            endless.prompts = np.asarray(encode_text(texts), np.float32)
            state = endless.open(config, part)
            seen = drift.begin(state, opening.target.shape[1:], _ends(endless))
            seen, _ = endless.watch(config, seen, opening)
            kept = np.asarray(seen.kept)
            pictures += [(case, kept[:, place]) for place, case in enumerate(part)]
    endless.prompts = before
    found = Counter[tuple[str, str]]()
    for case, styled in pictures:
        every = [targets[Case(style, case.clip)] for style in range(len(names))]
        nearest = int(steering.likeness(styled, every).argmax())
        found[names[case.style], names[nearest]] += 1
    return found


def _switches(streams: LongStreams, mode: Mode) -> tuple[dict[str, float], list[Check]]:
    """From every style's prompt to the next one's, and then a reset."""
    endless, names = streams.endless, [style.name for style in streams.styles]
    config = endless.of_mode(mode)
    late: dict[str, list[float]] = {name: [] for name in names}
    lost: dict[str, list[float]] = {name: [] for name in names}
    for part in streams.parts(streams.cases):
        into = [Case((case.style + 1) % len(names), case.clip) for case in part]
        opening, _ = endless.rounds(config, part, streams.loops)
        _, later = endless.rounds(config, into, streams.loops)
        shape = opening.target.shape[1:]
        # The same program as above, though nobody looks at these pictures.
        seen = drift.begin(endless.open(config, part), shape, _ends(endless))
        seen, _ = endless.watch(config, seen, opening)
        prompts = endless.prompts_of(config, into)
        turned = jax.jit(set_prompt, static_argnums=1)(
            endless.params, endless.model, seen.state, prompts
        )
        seen = dataclasses.replace(seen, state=turned)
        seen, first = endless.watch(config, seen, later)
        seen, settled = endless.watch(config, seen, later)
        everyone = np.ones(config.batch, bool)
        anew = jax.jit(reset, static_argnums=2)(seen.state, everyone, config.hold)
        _, again = endless.watch(config, dataclasses.replace(seen, state=anew), later)
        wanted = np.asarray(settled.psnr)
        switched = frames_until(np.asarray(first.psnr), wanted)
        # A style with memory has to fill it first, and the later half shows the rest.
        half = endless.period // 2
        change = (np.asarray(again.psnr) - wanted)[half:].mean(0)
        for place, case in enumerate(into):
            late[names[case.style]].append(float(switched[place]))
            lost[names[case.style]].append(float(change[place]))
    values = {f"switch_frames/{name}": max(frames) for name, frames in late.items()}
    values |= {f"reset_change/{name}": min(change) for name, change in lost.items()}
    checks = [
        Check(f"switch_frames/{name}", max(frames), steering.SWITCH, at_least=False)
        for name, frames in late.items()
    ]
    checks += [
        Check(f"reset_change/{name}", min(change), -steering.RESET)
        for name, change in lost.items()
    ]
    return values, checks


def _ends(endless: Endless) -> range:
    """The last frames of the first loop."""
    return range(endless.period - _COMPARED + 1, endless.period + 1)


main = command("steering", steer)

if __name__ == "__main__":
    app.run(main)
