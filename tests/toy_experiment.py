"""An experiment for sweeps that takes no time: gradient descent on a parabola.

Writes what the project's scripts write: a result file and the curves of a training.
"""

import json
import signal
import sys
import time
from pathlib import Path

from absl import app, flags

_OUT = flags.DEFINE_string("out", None, "Folder.", required=True)
_RATE = flags.DEFINE_float("rate", 0.1, "Of the descent.")
_MOMENTUM = flags.DEFINE_float("momentum", 0.0, "Of the descent.")
_STEPS = flags.DEFINE_integer("steps", 8, "Of the descent.")
_BROKEN = flags.DEFINE_bool("broken", False, "Fail unless the folder has a cure.")
_WAIT = flags.DEFINE_bool("wait", False, "Wait for Ctrl-C, then save and leave.")


def main(argv: list[str]) -> None:
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "starts", "a") as starts:
        starts.write("started\n")
    if _BROKEN.value and not (out.parent / "cure").exists():
        sys.exit("toy: the broken flag was given")
    if _WAIT.value and not (out / "saved").exists():
        _wait(out)
    position, speed, lines = 1.0, 0.0, []
    for step in range(_STEPS.value):
        speed = _MOMENTUM.value * speed - _RATE.value * 2 * position
        position += speed
        line = {"step": step, "elapsed_s": 0.1 * (step + 1), "loss": position**2}
        lines.append(json.dumps(line) + "\n")
    (out / "metrics.jsonl").write_text("".join(lines))
    distance = {"name": "distance", "value": abs(position), "unit": "m"}
    record = {"script": "toy", "setup": {}, "results": [distance | {"better": "lower"}]}
    (out / "toy.json").write_text(json.dumps(record))


def _wait(out: Path) -> None:
    def save(number: int, frame: object) -> None:
        (out / "saved").touch()
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, save)
    (out / "waiting").touch()
    time.sleep(60)


if __name__ == "__main__":
    app.run(main)
