"""What a training run tells: a console line, metrics.jsonl, TensorBoard, pictures."""

import json
import pathlib
import shutil
import sys
import time
from types import TracebackType
from typing import Self

import numpy as np
import tensorboardX
from PIL import Image

from mirage_jax.errors import MirageError


def duration(seconds: float) -> str:
    """`75 -> "1:15"`, `4000 -> "1:06:40"`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TrainLog:
    """Collects the metrics of single steps and writes their means.

    Lines of metrics.jsonl after step `done` are dropped at the start: a run that was
    killed after its last checkpoint repeats those steps. At `done` = 0 the curves of
    an earlier run are deleted.

    Raises:
      MirageError: the folder cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, done: int = 0) -> None:
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
                f"cannot write to {workdir}: {error.strerror}; choose another workdir"
            ) from error
        if not done:
            shutil.rmtree(workdir / "tensorboard", ignore_errors=True)
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=done + 1 if done else None
        )
        self._sums: dict[str, list[float]] = {}
        self._samples = 0.0
        self._steps = 0
        self._since = time.monotonic()
        self._pace = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start_clock(self) -> None:
        """Speeds count from here."""
        self._since = time.monotonic()

    def add(self, values: dict[str, float], samples: float) -> None:
        """Keep the metrics of one step."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        self._samples += samples
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
        if self._samples:
            means["samples_per_s"] = self._samples / seconds
        for name, value in means.items():
            self._board.add_scalar(name, value, step)
        record = {"step": step, "elapsed_s": round(elapsed, 3), **means}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        speed = (
            f"{means['samples_per_s']:.0f} samples/s"
            if self._samples
            else f"{means['steps_per_s']:.1f} steps/s"
        )
        self.note(
            f"step {step}  loss {means['loss']:.4f}  {speed}  "
            f"{duration(elapsed)} gone, {duration(left)} left"
        )
        self._sums.clear()
        self._samples = 0.0
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


def _step_of(line: str) -> float:
    """The step of a metrics line; a line torn by a kill counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
