"""The training loop: over a mesh of devices and hosts, resumable, interruptible.

What a step computes is `step`'s; here is the host's side of a run. The host never waits
for the step it has just started: the metrics of a step are read `RUN_AHEAD` steps
later, which keeps the device busy and yet bounds how far a stopped clock, a signal or a
NaN can be overrun.
"""

import collections
import concurrent.futures
import math
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mirage_jax.errors import MirageError
from mirage_jax.frame_compiler import load_convolutions
from mirage_jax.profiling import Profile
from mirage_jax.training.checkpoint import Checkpoints
from mirage_jax.training.hosts import Agreement, leads
from mirage_jax.training.log import TrainLog
from mirage_jax.training.mesh import copied, make_mesh, place, split
from mirage_jax.training.optimiser import TrainConfig, learning_rate_at
from mirage_jax.training.signals import StopSignal
from mirage_jax.training.step import (
    LossFn,
    TrainState,
    first_device,
    init_state,
    make_step,
)
from mirage_jax.training.work import SampleWork, StepWork

RUN_AHEAD = 4
"""Steps that may be in flight before the host waits for the oldest one."""


def _compile(
    steps: Sequence[Any], state: TrainState, data: Any
) -> list[Callable[..., Any]]:
    """Compile all programs at once, before the clock starts."""
    load_convolutions()
    rate = np.float32(0)
    lowered = [step.lower(state, data, rate) for step in steps]
    with concurrent.futures.ThreadPoolExecutor(len(lowered)) as pool:
        return list(pool.map(lambda low: low.compile(), lowered))


def train(
    workdir: str | pathlib.Path,
    config: TrainConfig,
    params: Any,
    losses: Sequence[LossFn],
    choose: Callable[[int], int],
    data: Any,
    pictures: Callable[[Any, Any, jax.Array], np.ndarray] | None = None,
    mesh: Mesh | None = None,
    restore: bool = True,
    samples: Sequence[int] | None = None,
    work: Sequence[SampleWork | None] | None = None,
    profile: Profile | None = None,
) -> TrainState:
    """Train `params` and return the final state, on this host's first device.

    With several processes (see `hosts`) all call it alike. The first one reads and
    writes checkpoints and pictures; the curves of the others lie in process_<n>/.

    Args:
      workdir: takes checkpoints/, pictures/, metrics.jsonl and TensorBoard events.
      params: pytree of float arrays; trained as float32.
      losses: several losses are several static programs, for example two frame sizes.
      choose: step (from 0) -> which of `losses` that step uses.
      data: pytree that all losses read; put on every device, never donated.
      pictures: `(ema params, data, key) -> uint8 [H, W, 3]`, called every
        `config.picture_every` steps and at the end, always with the same key.
      mesh: from `mesh.make_mesh`; all devices along "data" by default.
      restore: go on from the newest good checkpoint in `workdir`, if there is one;
        else the checkpoints and curves of an earlier run there are deleted.
      samples: samples a device takes per step of each loss, for the samples/s shown.
      work: what one sample of each loss is, for the tokens/s and the model FLOP use
        shown; None where nobody counted.
      profile: traces some of the steps.

    Raises:
      MirageError: a metric became NaN or infinite, no memory is left, or the
        checkpoints are damaged or of another model.
      SystemExit: SIGTERM or Ctrl-C came; the state has been saved.
    """
    profile = profile or Profile("", "step")
    mesh = mesh or make_mesh()
    kind = mesh.devices.flat[0].device_kind
    workdir = pathlib.Path(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        state = init_state(config, params)
        spent = 0.0
        if not restore:
            checkpoints.clear()
        elif (found := checkpoints.restore(state)) is not None:
            state, spent = found
        done = int(state.step)
        state = place(state, split(state, mesh))
        data = place(data, copied(data, mesh))
        with (
            profile,
            TrainLog(workdir, done=done) as log,
            StopSignal() as stop,
        ):
            started = time.monotonic()
            programs = _compile(
                [make_step(config, loss, state, mesh) for loss in losses], state, data
            )
            sides = " x ".join(f"{n} {axis}" for axis, n in mesh.shape.items())
            log.note(
                f"{mesh.size} {kind} ({sides}), {len(programs)} program(s) "
                f"compiled in {time.monotonic() - started:.1f} s, "
                f"start at step {done}"
            )
            run = _Run(
                config, checkpoints, log, pictures, stop, profile, mesh, spent, done
            )
            each = zip(
                samples or [0] * len(losses), work or [None] * len(losses), strict=True
            )
            steps = [StepWork.of(mesh, n, one) for n, one in each]
            state = run.steps(state, data, programs, choose, steps)
        return first_device(state)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MirageError(
            f"no memory left on {kind}: use a smaller batch or size, remat, or more "
            "devices along the mesh's fsdp"
        ) from error
    finally:
        checkpoints.close()


class _Run:
    """The host's side of one run: clock, metrics in flight, what is written when."""

    def __init__(
        self,
        config: TrainConfig,
        checkpoints: Checkpoints,
        log: TrainLog,
        pictures: Callable[[Any, Any, jax.Array], np.ndarray] | None,
        stop: StopSignal,
        profile: Profile,
        mesh: Mesh,
        spent: float,
        done: int,
    ) -> None:
        self.config = config
        self.checkpoints = checkpoints
        self.log = log
        self.pictures = pictures
        self.stop = stop
        self.profile = profile
        self.start = time.monotonic() - spent
        self.saved: int | None = done or None
        self.flying: collections.deque[tuple[int, float, StepWork, Any, Any]] = (
            collections.deque()
        )
        self.agreement = Agreement(mesh)
        self.heard = (spent, 0.0)

    def told(self) -> tuple[float, float]:
        """Of this process: seconds trained, and the signal that came or 0."""
        return time.monotonic() - self.start, float(self.stop.received or 0)

    def agreed(self) -> tuple[float, float]:
        """Of all processes, as of the newest step that was read; see `told`."""
        return self.heard if self.agreement.needed else self.told()

    def elapsed(self) -> float:
        return self.agreed()[0]

    def progress(self, step: int) -> float:
        if self.config.minutes:
            return self.elapsed() / (60 * self.config.minutes)
        return step / self.config.steps

    def steps(
        self,
        state: TrainState,
        data: Any,
        programs: Sequence[Callable[..., Any]],
        choose: Callable[[int], int],
        work: Sequence[StepWork],
    ) -> TrainState:
        step = int(state.step)
        pictured = step
        self.log.start_clock()
        while (progress := self.progress(step)) < 1:
            which = choose(step)
            rate = learning_rate_at(self.config, step, progress)
            state, metrics = self.profile(
                step, programs[which], state, data, np.float32(rate)
            )
            step += 1
            told = self.agreement.tell(self.told()) if self.agreement.needed else None
            self.flying.append((step, rate, work[which], metrics, told))
            self.land(RUN_AHEAD, progress)
            if number := int(self.agreed()[1]):
                self.save(state, step)
                self.checkpoints.wait()
                self.log.note(
                    f"stopped by {signal.Signals(number).name} at step {step}; saved "
                    f"in {self.checkpoints.folder}; the same command goes on from there"
                )
                raise SystemExit(128 + number)
            if self.config.picture_every and step % self.config.picture_every == 0:
                self.picture(state, data, step)
                pictured = step
            if (
                self.config.checkpoint_every
                and step % self.config.checkpoint_every == 0
            ):
                self.save(state, step)
        self.land(0, 1.0)
        if pictured != step:
            self.picture(state, data, step)
        self.save(state, step)
        self.checkpoints.wait()
        return state

    def land(self, keep: int, progress: float) -> None:
        """Read the metrics of all but the `keep` newest steps; stop at a NaN."""
        while len(self.flying) > keep:
            step, rate, work, metrics, told = self.flying.popleft()
            if told is not None:
                elapsed, number = jax.device_get(told).tolist()
                self.heard = (elapsed, number)
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            bad = [k for k, v in values.items() if not math.isfinite(v)]
            if bad:
                kept = (
                    f"the checkpoint of step {self.saved} in {self.checkpoints.folder} "
                    "is good"
                    if self.saved is not None
                    else "no checkpoint had been written yet"
                )
                raise MirageError(
                    f"step {step}: {', '.join(sorted(bad))} not finite "
                    f"(loss={values['loss']}); {kept}; lower the learning rate "
                    f"(now {rate:.2g}) and start again"
                )
            values["learning_rate"] = rate
            self.log.add(values, work)
            if step % self.config.log_every == 0:
                self.log.write(step, self.elapsed(), self.time_left(step, progress))

    def time_left(self, step: int, progress: float) -> float:
        """Seconds, from the pace of this run."""
        if self.config.minutes:
            return max(0.0, 60 * self.config.minutes - self.elapsed())
        return (self.config.steps - step) * self.log.seconds_a_step()

    def save(self, state: TrainState, step: int) -> None:
        """Save unless this step is saved; only a state known to be finite."""
        self.land(0, self.progress(step))
        if self.saved != step:
            self.checkpoints.save(step, state, self.elapsed())
            self.saved = step

    def picture(self, state: TrainState, data: Any, step: int) -> None:
        if self.pictures is None or not self.config.picture_every:
            return
        self.land(0, self.progress(step))
        # Always the same draws, and those of no step.
        key = jax.random.fold_in(jax.random.key(self.config.seed), 0x7069)
        ema = first_device(state.ema)
        if leads():
            grid = self.pictures(ema, first_device(data), key)
            self.log.picture(step, np.asarray(grid))
