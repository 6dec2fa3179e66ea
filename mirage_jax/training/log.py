"""What a training run tells: a console line, metrics.jsonl, TensorBoard, pictures."""

import json
import pathlib
import shutil
import sys
import time

import jax
import numpy as np
import tensorboardX
from PIL import Image

from mirage_jax.closing import Closing
from mirage_jax.device_memory import peak_memory
from mirage_jax.errors import MirageError, reason_of
from mirage_jax.training.hosts import leads
from mirage_jax.training.work import StepWork


def duration(seconds: float) -> str:
    """`75 -> "1:15"`, `4000 -> "1:06:40"`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TrainLog(Closing):
    """Collects the metrics of single steps and writes their means.

    Lines of metrics.jsonl after step `done` are dropped at the start: a run that was
    killed after its last checkpoint repeats those steps. At `done` = 0 the curves of
    an earlier run are deleted.

    Raises:
      MirageError: the folder cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, done: int = 0) -> None:
        if not leads():
            workdir = workdir / f"process_{jax.process_index()}"
        self._pictures = workdir / "pictures"
        path = workdir / "metrics.jsonl"
        try:
            self._pictures.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if _step_of(line) <= done]
            path.write_text("".join(line + "\n" for line in kept))
            self._file = path.open("a")
        except OSError as error:
            raise MirageError(
                f"cannot write to {workdir}: {reason_of(error)}; choose another workdir"
            ) from error
        if not done:
            shutil.rmtree(workdir / "tensorboard", ignore_errors=True)
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=done + 1 if done else None
        )
        self._sums: dict[str, list[float]] = {}
        self._work = StepWork()
        self._steps = 0
        self._since = time.monotonic()
        self._pace = 0.0

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def note(self, text: str) -> None:
        if leads():
            print(text, file=sys.stderr, flush=True)

    def start_clock(self) -> None:
        """Speeds count from here."""
        self._since = time.monotonic()

    def add(self, values: dict[str, float], work: StepWork) -> None:
        """Keep the metrics of one step, and what it did on all devices."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        self._work += work
        self._steps += 1

    def seconds_a_step(self) -> float:
        return self._pace

    def write(self, step: int, elapsed: float, left: float) -> None:
        """Write the means since the last call.

        Metrics of different losses have different names, so each mean is over the
        steps that gave it; the learning rate is the last one.
        """
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        self._pace = seconds / self._steps
        means = {name: float(np.mean(v)) for name, v in self._sums.items()}
        means["learning_rate"] = self._sums["learning_rate"][-1]
        means["steps_per_s"] = self._steps / seconds
        means |= self._work.speeds(seconds)
        means["peak_memory_gib"] = peak_memory()[0] / 2**30
        for name, value in means.items():
            self._board.add_scalar(name, value, step)
        # Five digits say all that a mean of losses knows.
        rounded = {name: float(f"{value:.5g}") for name, value in means.items()}
        record = {"step": step, "elapsed_s": round(elapsed, 3), **rounded}
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
        self._file.flush()
        told = [f"step {step}", f"loss {means['loss']:.4f}", _speed(means)]
        told += [f"{duration(elapsed)} gone, {duration(left)} left"]
        self.note("  ".join(told))
        self._sums.clear()
        self._work = StepWork()
        self._steps = 0
        self._since = now

    def picture(self, step: int, grid: np.ndarray) -> None:
        """Write a uint8 [H, W, 3] picture as PNG and to TensorBoard."""
        if grid.dtype != np.uint8 or grid.ndim != 3 or grid.shape[-1] != 3:
            raise ValueError(
                f"a picture is uint8 [H, W, 3], not {grid.dtype} {grid.shape}"
            )
        Image.fromarray(grid).save(self._pictures / f"{step:07}.png")
        self._board.add_image("pictures", grid, step, dataformats="HWC")


def _speed(means: dict[str, float]) -> str:
    """What is known of it: `1111 samples/s  4550016 tokens/s  41% of peak  61 GiB`."""
    if "samples_per_s" not in means:
        return f"{means['steps_per_s']:.1f} steps/s"
    words = [f"{means['samples_per_s']:.0f} samples/s"]
    if "tokens_per_s" in means:
        words.append(f"{means['tokens_per_s']:.0f} tokens/s")
    if "model_flop_use" in means:
        words.append(f"{100 * means['model_flop_use']:.1f}% of peak")
        words.append(f"{means['peak_memory_gib']:.1f} GiB")
    return "  ".join(words)


def _step_of(line: str) -> float:
    """The step of a metrics line; a line torn by a kill counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
