r"""Runs an experiment under many settings, and ranks what came of them.

    python -m experiments.sweep --config=configs/sweep_train.py --workers=4
    python -m experiments.sweep --script=experiments.train_denoiser \
      --base=--config=configs/train_denoiser.py --base=--config.workdir={folder} \
      --grid=--config.learning_rate=1e-3,2e-3 --grid=--config.b2=0.9,0.99 \
      --metric=one_step_512:lower

Each run is a process with a folder of its own, outputs/sweep/<name>/<run>, that holds
log.txt, run.json and what the script writes to where `{folder}` stands in its flags.
--grid names a flag and its values; all combinations are run or, with --random, so many
draws from them. A finished run is not run again and a failed one only with --retry; one
that was stopped goes on as far as its script can. Ends with table.md, results.json and
plot.png in the sweep's folder. docs/sweeps.md says more.
"""

import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from experiments.command import command
from experiments.sweep_axes import draws, grid, parse_axes
from experiments.sweep_metrics import Metric, check_names, measured, parse_metrics
from experiments.sweep_plot import draw_plot
from experiments.sweep_runs import FOLDER, Outcome, Run
from experiments.sweep_table import markdown, ranked, to_results
from experiments.sweep_workers import LocalWorkers, RayWorkers, Workers, local_gpus
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.pictures import save_picture
from mirage_jax.results import device_setup, write_results
from mirage_jax.staged_file import write_whole
from mirage_jax.training.signals import StopSignal

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What the flags from --name to --seed say; flags win over it."
)
# What a config file can say, by the same names.
_DESCRIPTION = {
    "name": flags.DEFINE_string(
        "name", "", "Of the sweep's folder; by default that of the script."
    ),
    "script": flags.DEFINE_string("script", "", "Module, as in python -m SCRIPT."),
    "base": flags.DEFINE_multi_string("base", [], "A flag for all runs; repeat it."),
    "grid": flags.DEFINE_multi_string(
        "grid", [], "A flag and its values, as in experiments/sweep_axes.py; repeat it."
    ),
    "metric": flags.DEFINE_multi_string(
        "metric", [], "NAME, NAME:lower or NAME:higher; the first one ranks the runs."
    ),
    "random": flags.DEFINE_integer("random", 0, "Draws; 0: all combinations."),
    "seed": flags.DEFINE_integer("seed", 0, "Of the draws."),
}
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Runs at once; by default as many as GPUs, or one."
)
_RAY = flags.DEFINE_string("ray", None, "Address of a Ray cluster, or auto or local.")
_RETRY = flags.DEFINE_bool("retry", False, "Run failed runs again.")
_OUT = flags.DEFINE_string("out", "outputs/sweep", "Folder of all sweeps.")


def run() -> bool:
    """Runs what is left to run and writes the outcome; whether a run has failed."""
    described = _described()
    metrics = parse_metrics(described["metric"])
    runs = _runs(described)
    waiting = [one for one in runs if _is_due(one)]
    print(f"{len(runs)} runs in {runs[0].sweep}, {len(waiting)} of them to do")
    stopped = _work_through(waiting) if waiting else None
    failed = _report(runs, metrics, described)
    if stopped is not None:
        raise SystemExit(128 + stopped)
    return failed


def _described() -> dict[str, Any]:
    """The config file's settings, and over them the flags that were given."""
    config = dict(_CONFIG.value or {})
    if unknown := sorted(set(config) - set(_DESCRIPTION)):
        raise MirageError(
            f"--config has {', '.join(unknown)}, which is no setting of a sweep: it "
            f"can have {', '.join(_DESCRIPTION)}"
        )
    described = {
        name: flag.value if flag.present else config.get(name, flag.value)
        for name, flag in _DESCRIPTION.items()
    }
    for name in ("base", "grid", "metric"):
        if isinstance(described[name], str):
            raise MirageError(
                f"--config: {name} must be a tuple of texts; is its comma missing?"
            )
    return described


def _runs(described: dict[str, Any]) -> list[Run]:
    script, count = described["script"], described["random"]
    if not script:
        raise MirageError("no script: give --script=experiments.NAME or --config")
    if count < 0:
        raise MirageError(f"--random={count}: give how many runs to draw, or 0")
    name = described["name"] or script.split(".")[-1]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise MirageError(f"--name={name} must be a plain name of a folder")
    axes = parse_axes(described["grid"])
    settings = draws(axes, count, described["seed"]) if count else grid(axes)
    folder, base = Path(_OUT.value) / name, tuple(described["base"])
    if not any(FOLDER in flag for flag in base):
        raise MirageError(
            f"no flag of --base has {FOLDER} in it, and all runs would write to one "
            f"place: say where the script writes, as in --base=--out={FOLDER}/x.json"
        )
    return [Run(script, base, one, folder) for one in settings]


def _is_due(one: Run) -> bool:
    outcome = one.outcome()
    if outcome is None or outcome.exit_status is None:
        return True
    return outcome.exit_status != 0 and _RETRY.value


def _work_through(runs: Sequence[Run]) -> int | None:
    """Runs them all; the number of the signal that stopped it before, if one did."""
    workers: Workers
    if _RAY.value:
        workers = RayWorkers(_WORKERS.value, _RAY.value)
    else:
        workers = LocalWorkers(_WORKERS.value, local_gpus())
    waiting, gpus, ended = deque(runs), dict[Run, str | None](), 0
    before = {one: earlier.seconds for one in runs if (earlier := one.outcome())}

    def note(one: Run, outcome: Outcome) -> None:
        spent = before.get(one, 0.0) + outcome.seconds
        one.write_record(Outcome(outcome.exit_status, spent), gpus[one])

    with StopSignal() as stop:
        try:
            while ended < len(runs) and stop.received is None:
                while waiting and workers.has_room():
                    one = waiting.popleft()
                    gpus[one] = workers.start(one)
                    note(one, Outcome(None, 0.0))
                for one, outcome in workers.ended():
                    ended += 1
                    note(one, outcome)
                    print(f"{ended}/{len(runs)} {one.name}: {outcome.word}", flush=True)
            if stop.received is not None:
                print("stopping: running runs may save what they have", flush=True)
                for one, outcome in workers.stop():
                    note(one, outcome)
        finally:
            workers.close()
        return stop.received


def _report(
    runs: Sequence[Run], metrics: Sequence[Metric], described: dict[str, Any]
) -> bool:
    never = Outcome(None, 0.0)
    found = [measured(one, one.outcome() or never, metrics) for one in runs]
    failed = [one.run for one in found if one.outcome.exit_status]
    for one in failed:
        print(f"failed: {one.folder}: {one.complaint()}")
    check_names(found, metrics)
    found = ranked(found, metrics[0])
    table = markdown(found, metrics)
    print(table)
    folder = runs[0].sweep
    write_whole(folder / "table.md", (table + "\n").encode())
    setup = {
        **device_setup(),
        **{name: _plain(value) for name, value in described.items()},
        "runs": {one.name: dict(one.settings) for one in runs},
    }
    results = to_results(found)
    write_results(folder / "results.json", "experiments/sweep.py", setup, results)
    if (plot := draw_plot(found, metrics[0])) is not None:
        save_picture(folder / "plot.png", plot)
    print(f"{folder}: table.md, results.json{', plot.png' if plot else ''}")
    return bool(failed)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | str) else list(value)


main = command("sweep", run)

if __name__ == "__main__":
    app.run(main)
