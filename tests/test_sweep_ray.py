"""Sweeps on a Ray cluster: a stand-in for it, and Ray itself by `make test-cluster`."""

import _thread
import dataclasses
import importlib.util
import signal
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import sweep_workers
from experiments.sweep_runs import Outcome, Run
from experiments.sweep_workers import RayWorkers, run_to_end
from mirage_jax.errors import MirageError
from mirage_jax.results import read_record

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(eq=False)
class Task:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class RayError(Exception):
    pass


class FakeRay(types.ModuleType):
    """As much of Ray as a sweep uses; a task runs when its outcome is asked for."""

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, gpus: int, broken: bool) -> None:
        super().__init__("ray")
        self.gpus, self.broken = gpus, broken
        self.cancelled: list[Task] = []
        self.options: dict[str, Any] = {}

    def init(self, address, **settings):
        if address == "nowhere":
            raise ConnectionError("nobody answers\nat all")

    def cluster_resources(self):
        return {"CPU": 2.0} | ({"GPU": float(self.gpus)} if self.gpus else {})

    def remote(self, function):
        def options(**given):
            self.options = given
            return types.SimpleNamespace(remote=lambda *given: Task(function, given))

        return types.SimpleNamespace(options=options)

    def wait(self, tasks, num_returns=1, timeout=None):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        if self.broken:
            raise RayError("the worker\ndied")
        return task.function(*task.arguments)

    def cancel(self, task):
        self.cancelled.append(task)

    def shutdown(self):
        pass


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster that is not there, and workers on it."""

    def make(workers=None, address="auto", gpus=0, broken=False):
        module = FakeRay(gpus, broken)
        monkeypatch.setitem(sys.modules, "ray", module)
        monkeypatch.chdir(ROOT)
        return module, RayWorkers(workers, address)

    return make


@pytest.fixture
def run(tmp_path):
    base = ("--out={folder}",)
    return Run("tests.toy_experiment", base, (("--steps", "2"),), tmp_path)


def test_a_cluster_runs_a_run_and_gives_it_gpus(cluster, run):
    module, workers = cluster(gpus=5, workers=2)
    assert module.options["num_gpus"] == 2
    workers.start(run)
    [(ended, outcome)] = workers.ended()
    assert ended == run and outcome.exit_status == 0
    assert (run.folder / "toy.json").exists()
    assert workers.ended() == []


def test_a_lost_machine_is_a_failed_run(cluster, run):
    _, workers = cluster(broken=True)
    workers.start(run)
    assert not workers.has_room()
    [(_, outcome)] = workers.ended()
    assert outcome.exit_status == 1 and run.complaint() == "the worker died"


def test_stopping_a_cluster_cancels_its_tasks(cluster, run):
    module, workers = cluster()
    workers.start(run)
    [(stopped, outcome)] = workers.stop()
    assert stopped == run and isinstance(outcome, Outcome)
    assert outcome.exit_status is None and len(module.cancelled) == 1


def test_an_interrupted_task_lets_its_run_save(run, monkeypatch):
    """As Ray does it: with Ctrl-C masked, an exception between two instructions.

    Ctrl-C is ignored too, as where a shell's & has started the cluster.
    """
    monkeypatch.chdir(ROOT)
    waits = Run(run.script, run.base, (("--wait", "true"),), run.sweep)
    sleep = time.sleep

    def interrupt(seconds):
        sleep(seconds)
        if (waits.folder / "waiting").exists():
            _thread.interrupt_main()

    monkeypatch.setattr(sweep_workers.time, "sleep", interrupt)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(waits.arguments, waits.folder, str(ROOT))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN, "it was so before"
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (waits.folder / "saved").exists()


def test_no_cluster_is_one_line(cluster):
    with pytest.raises(MirageError, match="--ray=nowhere: nobody answers;") as error:
        cluster(address="nowhere")
    assert "\n" not in str(error.value)


def test_without_ray_its_flag_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MirageError, match=r"pip install -e '.\[cluster\]'"):
        RayWorkers(1, "auto")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["cluster"]


@pytest.fixture
def sweep_on_ray(tmp_path, monkeypatch):
    """Starts a sweep of the toy on a Ray of this machine; its folder is `toy`."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    processes = []

    def start(grid):
        command = [sys.executable, "-m", "experiments.sweep", "--name=toy"]
        command += [f"--out={tmp_path}", "--script=tests.toy_experiment"]
        command += ["--base=--out={folder}", "--metric=distance"]
        command += ["--ray=local", "--workers=2", f"--grid={grid}"]
        pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        processes.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return processes[-1], tmp_path / "toy"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


real_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="needs Ray: `make test-cluster` installs it",
)


@pytest.mark.cluster
@real_ray
def test_a_sweep_on_ray(sweep_on_ray):
    process, folder = sweep_on_ray("--rate=0.1,0.2,0.3")
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    found = read_record(folder / "results.json").results
    assert sum(name.startswith("distance/") for name in found) == 3
    assert "Traceback" not in said


@pytest.mark.cluster
@real_ray
def test_ctrl_c_lets_the_runs_on_ray_save(sweep_on_ray):
    process, folder = sweep_on_ray("--wait=true")
    end = time.monotonic() + 200
    while not list(folder.glob("*/waiting")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert list(folder.glob("*/saved")), said
