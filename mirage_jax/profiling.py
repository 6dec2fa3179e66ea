"""A trace of some steps of a run by JAX's profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import jax

from mirage_jax.staged_file import write_errors

WARM_UP = 10
STEPS = 20
Result = TypeVar("Result")


def runs_folder(folder: str) -> Path:
    """Where under `folder` the profiler leaves its runs; made if it is missing.

    Raises:
      MirageError: it cannot be written.
    """
    runs = Path(folder) / "plugins" / "profile"
    with write_errors(Path(folder)):
        runs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs).close()
    return runs


class Profile:
    """Traces a window of a run's steps, each under its number.

        with Profile(folder, "frame") as profile:
            for number, source in enumerate(frames):
                styled = profile(number, step, source)

    The window is bounded, so that the trace stays small however long the run is. The
    steps before it are warm-up: they are traced too, and that trace is thrown away
    when the window begins, so that a run which ends earlier still leaves one. Programs
    should be compiled before the first step. The profiler is the process's own: one
    profile at a time.

    Args:
      folder: takes plugins/profile/<time>/, which TensorBoard looks for; "" traces
        nothing.
      step: what a step is called, "frame".
      warm_up: steps before the window.
      steps: length of the window.

    Raises:
      MirageError: the folder cannot be written.
    """

    def __init__(
        self, folder: str, step: str, warm_up: int = WARM_UP, steps: int = STEPS
    ):
        self._folder, self._step = folder, step
        self._warm_up, self._end = warm_up, warm_up + steps
        self._done = 0
        self._traced: list[int] = []  # numbers of the steps in the trace
        self._tracing = False
        if folder:
            self._runs = runs_folder(folder)
            self._before = set(self._runs.iterdir())

    def __enter__(self) -> Self:
        return self

    def __call__(
        self, number: int, call: Callable[..., Result], *operands: object
    ) -> Result:
        """`call(*operands)` as the run's next step; waits where the window has ends."""
        if self._folder and self._done == self._warm_up and self._tracing:
            self._stop()  # not before: the warm-up may be all there is
            self._forget()
        if self._folder and self._done < self._end and not self._tracing:
            self._start()
        if self._tracing:
            self._traced.append(number)
        with jax.profiler.StepTraceAnnotation(self._step, step_num=number):
            result = call(*operands)
        self._done += 1
        if self._tracing:
            if self._done in (self._warm_up, self._end):
                jax.block_until_ready(result)
            if self._done == self._end:
                self._stop()
        return result

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends a trace that still runs, and says where it is and what is in it."""
        if self._tracing:
            self._stop()
        if self._folder:
            print(self._told(), flush=True)

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        # Calls of Python would take time from the host and bury what it waits for.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._tracing = True

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()

    def _forget(self) -> None:
        """Deletes the trace of the warm-up."""
        for run in set(self._runs.iterdir()) - self._before:
            shutil.rmtree(run)
        self._traced.clear()

    def _told(self) -> str:
        if not self._traced:
            return f"no profile: the run ended before its first {self._step}"
        told = f"profile: {self._step} {self._traced[0]} to {self._traced[-1]}"
        if self._done < self._end:
            told += f" (the run ended after {self._done} of {self._end}"
            told += ": warm-up alone)" if self._done <= self._warm_up else ")"
        return f"{told}; open it with tensorboard --logdir={self._folder}"
