"""Where the runs of a sweep work: processes of this machine, or tasks of a Ray cluster.

Either way so many at once as there are workers, and the GPUs shared out evenly.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from experiments.sweep_runs import Outcome, Run, signal_group, start_process
from mirage_jax.errors import MirageError

STOPPING_S = 120  # for a stopped run to save what it has
_POLL_S = 0.05


class Workers(Protocol):
    """What starts runs and says which have ended."""

    def has_room(self) -> bool: ...

    def start(self, run: Run) -> str | None:
        """The GPUs it has, as in CUDA_VISIBLE_DEVICES, where that is known."""

    def ended(self) -> list[tuple[Run, Outcome]]:
        """Those that have ended since the last call; waits a moment for one."""

    def stop(self) -> list[tuple[Run, Outcome]]:
        """Interrupts all that still run; they may save and leave whole files."""

    def close(self) -> None:
        """Kills what is left."""


def local_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES has them, else all that the driver lists.

    JAX is not asked: it would take the GPUs' memory from the runs.
    """
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    except OSError:
        return []
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


def worker_count(wanted: int | None, gpus: int) -> int:
    """How many work at once: one on each GPU, or one, unless the user says otherwise.

    Raises:
      MirageError: not one worker, or more than GPUs, where there are any.
    """
    count = wanted if wanted is not None else max(gpus, 1)
    if count < 1:
        raise MirageError(f"--workers={count}: give at least 1")
    if gpus and count > gpus:
        raise MirageError(
            f"--workers={count} for {gpus} GPU(s), and JAX takes nearly all memory of "
            "one: give fewer, or set CUDA_VISIBLE_DEVICES to nothing for runs on CPUs"
        )
    return count


class LocalWorkers:
    """Processes of this machine."""

    def __init__(self, workers: int | None, gpus: list[str]) -> None:
        count = worker_count(workers, len(gpus))
        self._free = [",".join(gpus[place::count]) for place in range(count)]
        self._busy: dict[Run, tuple[subprocess.Popen[bytes], float, str]] = {}

    def has_room(self) -> bool:
        return bool(self._free)

    def start(self, run: Run) -> str | None:
        gpus = self._free.pop(0)
        chosen = {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
        process = start_process(run.arguments, run.folder, chosen)
        self._busy[run] = process, time.monotonic(), gpus
        return gpus or None

    def ended(self) -> list[tuple[Run, Outcome]]:
        time.sleep(_POLL_S)
        found = []
        for run, (process, began, gpus) in list(self._busy.items()):
            if (status := process.poll()) is not None:
                found.append((run, Outcome(status, time.monotonic() - began)))
                self._free.append(gpus)
                del self._busy[run]
        return found

    def stop(self) -> list[tuple[Run, Outcome]]:
        for process, _, _ in self._busy.values():
            signal_group(process, signal.SIGINT)
        deadline = time.monotonic() + STOPPING_S
        found = []
        while self._busy and time.monotonic() < deadline:
            found += [(run, outcome.cut_short()) for run, outcome in self.ended()]
        left = [
            (run, Outcome(None, time.monotonic() - began))
            for run, (_, began, _) in self._busy.items()
        ]
        return found + left

    def close(self) -> None:
        for process, _, _ in self._busy.values():
            signal_group(process, signal.SIGKILL)
            process.wait()
        self._busy.clear()


def run_to_end(arguments: list[str], folder: Path, root: str) -> Outcome:
    """A Ray task: one run in the folder `root`; interrupted, it interrupts the run."""
    os.chdir(root)
    began = time.monotonic()
    # Ray interrupts a task by Ctrl-C's handler, and there is none where a shell's & has
    # started the cluster. It also blocks Ctrl-C, which a process inherits.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    masked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    process = start_process(arguments, folder, {})
    signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    try:
        # Ray interrupts a task between two instructions of Python, never in a wait.
        while (status := process.poll()) is None:
            time.sleep(_POLL_S)
    except BaseException:
        signal_group(process, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPPING_S)
        signal_group(process, signal.SIGKILL)
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
    return Outcome(status, time.monotonic() - began)


class RayWorkers:
    """Tasks of a Ray cluster whose machines all see this folder under its path here.

    Ray itself sets CUDA_VISIBLE_DEVICES on the machine that a task gets.

    Raises:
      MirageError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, workers: int | None, address: str) -> None:
        try:
            import ray  # an optional extra: sweeps on one machine do without it
        except ImportError as error:
            raise MirageError(
                "--ray needs Ray, which is not installed: run pip install -e "
                "'.[cluster]'"
            ) from error
        self._ray: Any = ray
        self._root = os.getcwd()
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": {"PYTHONPATH": self._root}},
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            raise MirageError(
                f"no Ray cluster at --ray={address}: {reason}; start one with ray "
                "start --head, or take --ray=local for one of this machine"
            ) from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self._count = worker_count(workers, gpus)
        self._task = ray.remote(run_to_end).options(
            num_cpus=1, num_gpus=gpus // self._count, max_retries=0
        )
        self._busy: dict[Any, tuple[Run, float]] = {}

    def has_room(self) -> bool:
        return len(self._busy) < self._count

    def start(self, run: Run) -> str | None:
        task = self._task.remote(run.arguments, run.folder, self._root)
        self._busy[task] = run, time.monotonic()
        return None

    def ended(self) -> list[tuple[Run, Outcome]]:
        if not self._busy:
            return []
        done, _ = self._ray.wait(list(self._busy), timeout=_POLL_S)
        return [self._outcome(task) for task in done]

    def _outcome(self, task: Any) -> tuple[Run, Outcome]:
        run, began = self._busy.pop(task)
        try:
            return run, self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            # The machine or its worker is gone, or cannot see the folder.
            run.note_in_log(str(error))
            return run, Outcome(1, time.monotonic() - began)

    def stop(self) -> list[tuple[Run, Outcome]]:
        tasks = list(self._busy)
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=STOPPING_S)
        return [
            (run, Outcome(None, time.monotonic() - began))
            for run, began in self._busy.values()
        ]

    def close(self) -> None:
        self._ray.shutdown()
