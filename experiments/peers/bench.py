"""Times other programs that make a frame, and this one, in one run on the present GPU.

    python -m experiments.peers.bench --frames=300

Everywhere: 512x512, one stream, one step, random weights, source bytes on the device to
styled bytes on the device, one clock. Each rival is a process of its own, one after the
other, so that no library holds memory that another needs:

  sd_turbo_unet_taesd  SD-Turbo's U-Net and a tiny autoencoder, by diffusers, float16
  torch_dit            our model in PyTorch; also its pass alone, and both without the
                       slot bias
  jax_xla_cudnn        our model by XLA and cuDNN's attention, no kernel of ours
  mirage_jax           our model as the library runs it; also in two steps

PyTorch's are compiled and recorded as CUDA graphs. PyTorch and diffusers are no
requirements of this project: where they are missing, their rivals are left out. Writes
one JSON file after each rival and prints a table; exits with 1 where a rival failed or
computed something else. With --interpret it runs toys on any device, to test itself.
"""

import time
from typing import Any

from absl import app, flags

from experiments.command import command
from experiments.peers.child import ChildFailed, in_child
from experiments.peers.report import table, to_results, wrong
from experiments.peers.rivals import RIVALS, Found, Settings
from mirage_jax.config import model_config
from mirage_jax.errors import MirageError
from mirage_jax.results import device_setup, write_results
from pallas_kernels import device

_RIVALS = flags.DEFINE_list("rivals", list(RIVALS), "Which, in the order of a run.")
_MODEL = flags.DEFINE_string("model", "lsd_880m", "Named size of our model.")
_FRAMES = flags.DEFINE_integer(
    "frames", 300, "Calls that wait, and as many that do not.", lower_bound=1
)
_COMPILE = flags.DEFINE_enum(
    "compile",
    "default",
    ["default", "max-autotune-no-cudagraphs", "eager"],
    "Mode of torch.compile; CUDA graphs are recorded in any. Tuning takes longer.",
)
_SECONDS = flags.DEFINE_float("seconds", 300, "A rival that takes longer is ended.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run toys on any device.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/rivals_<model>_<device>.json by default."
)


def bench() -> bool:
    """Runs what the flags ask for; whether a rival failed or was wrong."""
    begin = time.perf_counter()
    unknown = sorted(set(_RIVALS.value) - RIVALS.keys())
    if unknown:
        raise MirageError(f"no rival {unknown[0]!r}: take of {', '.join(RIVALS)}")
    model_config(_MODEL.value)
    try:
        setup, slug = in_child(_describe, seconds=_SECONDS.value)
    except ChildFailed as failure:
        raise MirageError(f"JAX finds no device: {failure}") from failure
    if slug is None and not _INTERPRET.value:
        raise MirageError("no NVIDIA GPU here; --interpret runs toys without")
    settings = Settings(_MODEL.value, 512, _FRAMES.value, _COMPILE.value, True)
    if slug is None:
        settings = Settings("test", 64, _FRAMES.value, "eager", False)
    out = _OUT.value or f"docs/results/rivals_{settings.model}_{slug or 'cpu'}.json"
    setup |= {
        "model": settings.model,
        "weights": "random weights, for timing only",
        "height": settings.side,
        "width": settings.side,
        "batch": 1,
        "steps": 1,
        "frames": settings.frames,
        "interpret": slug is None,
    }
    done: dict[str, Found] = {}
    refused: dict[str, str] = {}
    failed = False
    for name in [name for name in RIVALS if name in _RIVALS.value]:
        missing = RIVALS[name].missing
        if missing:
            refused[name] = f"{' and '.join(missing)} not installed"
            hint = f"pip install {' '.join(missing)}"
            print(f"{name}: not run, {refused[name]}: {hint}", flush=True)
        else:
            try:
                found = in_child(
                    RIVALS[name].measure, name, settings, seconds=_SECONDS.value
                )
                done[name] = found
                failed |= bool(wrong(found))
                print(table(name, found), flush=True)
            except ChildFailed as failure:
                failed, refused[name] = True, str(failure)
                print(f"{name}: failed, {failure}", flush=True)
        setup |= {
            "rivals": {name: found.setup for name, found in done.items()},
            "refused": refused,
            "seconds": round(time.perf_counter() - begin, 1),
        }
        # A run that is cut off keeps what it has.
        write_results(out, "experiments/peers/bench.py", setup, to_results(done))
    if not done:
        raise MirageError("no rival ran")
    print(f"results in {out} after {setup['seconds']} s")
    return failed


def _describe() -> tuple[dict[str, Any], str | None]:
    """Of JAX's device: what records say, and its name in file names if it is a GPU."""
    card = device.present()
    return device_setup(), None if card is None else card.slug


main = command("bench", bench)

if __name__ == "__main__":
    app.run(main)
