"""How soon does a stream get over a fault?

    python -m experiments.heal --clips=path/to/held_out_clips --modes=merged/1,lagged/1

Streams run for one loop; then noise falls into what they remember, or one source frame
is black, four times too bright or of another scene. Each is compared with a twin that
nothing happened to: how many frames until PSNR is back within 1 dB, and stays there.
Writes one JSON file, and exits with 1 where that takes more than about a second.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.command import command
from experiments.long_streams import LongStreams, load_long_streams
from mirage_jax.errors import MirageError
from mirage_jax.evaluation import drift
from mirage_jax.evaluation.checks import Check
from mirage_jax.evaluation.faults import FAULTS, HEAL
from mirage_jax.evaluation.settling import frames_until
from mirage_jax.evaluation.verdict import to_results
from mirage_jax.modes import Mode, parse_mode
from mirage_jax.results import write_results

_MODES = flags.DEFINE_list("modes", ["merged/1", "lagged/1"], "As commit/steps.")
_OUT = flags.DEFINE_string("out", "docs/results/heal.json", "Where results go.")

Healing = tuple[np.ndarray, np.ndarray]


def heal() -> bool:
    """Injects every fault in every mode; whether a stream took too long."""
    begin = time.perf_counter()
    modes = [parse_mode(text) for text in dict.fromkeys(_MODES.value)]
    if free := [mode.name for mode in modes if mode.free]:
        raise MirageError(f"--modes={free[0]}: a stream heals by its source, take it")
    streams = load_long_streams()
    values: dict[str, float] = {}
    checks = []
    for mode in modes:
        for fault, (frames, loss) in _healed(streams, mode).items():
            path = f"{fault}/{mode.name}"
            values[f"heal_frames/{path}"] = float(frames.max())
            values[f"heal_frames_mean/{path}"] = float(frames.mean())
            values[f"heal_loss/{path}"] = float(loss.mean())
            checks.append(
                Check(f"heal_frames/{path}", float(frames.max()), HEAL, at_least=False)
            )
            print(
                f"{path}: {frames.max()} frames at most, {frames.mean():.1f} on average"
            )
    values |= {f"check/{check.name}": float(check.passed) for check in checks}
    setup = streams.setup | {
        "modes": [mode.name for mode in modes],
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_results(_OUT.value, "experiments/heal.py", setup, to_results(values))
    passed = sum(check.passed for check in checks)
    print(f"{passed} of {len(checks)} bars cleared; results in {_OUT.value}")
    return passed < len(checks)


def _healed(streams: LongStreams, mode: Mode) -> dict[str, Healing]:
    """Of each fault, for every stream: frames until it healed, the greatest loss."""
    endless = streams.endless
    config = endless.of_mode(mode)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        name: [] for name in FAULTS
    }
    for part in streams.parts(streams.cases):
        opening, later = endless.rounds(config, part, streams.loops)
        start = drift.begin(endless.open(config, part), opening.target.shape[1:])
        start, _ = endless.watch(config, start, opening)
        _, twin = endless.watch(config, _copied(start), later)
        wanted = np.asarray(twin.psnr)[:, : len(part)]
        for number, (name, fault) in enumerate(FAULTS.items()):
            key = jax.random.key(number)
            state, source = jax.jit(fault, static_argnums=3)(
                start.state, later.source[0], key, endless.model.denoiser
            )
            # A frame of a wrong source is the fault itself: frames after it count.
            first = int(np.any(np.asarray(source) != np.asarray(later.source[0])))
            clip = dataclasses.replace(later, source=later.source.at[0].set(source))
            hurt = dataclasses.replace(_copied(start), state=state)
            _, measured = endless.watch(config, hurt, clip)
            psnr = np.asarray(measured.psnr)[:, : len(part)]
            late = frames_until(psnr[first:], wanted[first:])
            found[name].append((late, (wanted - psnr)[first:].max(0)))
    return {
        name: (
            np.concatenate([frames for frames, _ in parts]),
            np.concatenate([loss for _, loss in parts]),
        )
        for name, parts in found.items()
    }


def _copied(seen: drift.Watch) -> drift.Watch:
    """To be given away while the original is still needed."""
    copy: drift.Watch = jax.tree.map(jnp.copy, seen)
    return copy


main = command("heal", heal)

if __name__ == "__main__":
    app.run(main)
