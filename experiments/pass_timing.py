"""Compiles and times the programs of one combination."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.call_timing import Call, time_calls
from experiments.frame_programs import open_some_stream
from experiments.pass_programs import Pass, one_pass
from experiments.pass_report import Measured
from mirage_jax.frame_compiler import frame_options, frame_program
from mirage_jax.profiling import STEPS, Profile
from mirage_jax.stream import make_step
from pallas_kernels import timing


@dataclasses.dataclass
class Job:
    """A combination at one frame size, and its compiled programs.

    Attributes:
      combination: its name.
      tokens: N of a frame.
      runs: the pass.
      passes: how many the chained program has.
      names: of the programs that are wanted: "pass", "chain", "step".
      options: for the compiler.
      compiled: those that are there.
      compile_s: seconds of each, beside others that compiled at the same time.
      refusal: why there are none.
    """

    combination: str
    tokens: int
    runs: Pass
    passes: int
    names: tuple[str, ...]
    options: dict[str, Any] | None = None
    compiled: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    compile_s: dict[str, float] = dataclasses.field(default_factory=dict)
    refusal: str | None = None

    @property
    def path(self) -> str:
        return f"{self.combination}/{self.tokens}"

    @property
    def precision(self) -> str | None:
        """8-bit format of the weights; None for bfloat16."""
        return self.runs.stream.eight_bit

    def compile(self, params: Any) -> None:
        """Compiles what is wanted; a backend that cannot is noted, not raised."""
        try:
            for name in self.names:
                begin = time.perf_counter()
                lowered = self._lowered(name, params)
                self.compiled[name] = lowered.compile(compiler_options=self.options)
                self.compile_s[name] = time.perf_counter() - begin
        except Exception as failure:  # any library may fail in any way; others go on
            lines = str(failure).splitlines() or [""]
            self.refusal = f"{type(failure).__name__}: {lines[0][:160]}"

    def _lowered(self, name: str, params: Any) -> Any:
        model, stream = self.runs.model, self.runs.stream
        if name == "step":
            step: Any = make_step(model, stream)
            state = jax.eval_shape(self.open, params)
            return step.lower(params, state, self.source())
        if name == "pass":
            program = frame_program(one_pass, model, stream, donate=1)
        else:
            many = self.runs.chained(self.passes)
            program = jax.jit(many, donate_argnums=1, compiler_options=frame_options())
        carry = jax.eval_shape(self.runs.carry, params["denoiser"])
        return program.lower(params["denoiser"], carry)

    def open(self, params: Any) -> Any:
        """A fresh stream with some prompt."""
        return open_some_stream(params, self.runs.model, self.runs.stream)

    def source(self) -> Any:
        """A frame of noise on the device, uint8."""
        stream = self.runs.stream
        rng = np.random.default_rng(0)
        shape = (stream.batch, stream.height, stream.width, 3)
        return jax.device_put(rng.integers(0, 256, shape, np.uint8))


def measure(
    job: Job,
    params: Any,
    wanted: Any,
    floor_ms: float,
    calls: int,
    repeats: int,
    profile_dir: str = "",
) -> Measured:
    """Checks one pass, then times it and the step.

    Args:
      job: compiled.
      params: weights in its precision.
      wanted: outcome of the pass in float32.
      floor_ms: least time of a pass.
      calls: from the host, of each kind.
      repeats: runs of the chained program.
      profile_dir: folder for a trace of passes and one of steps; "" for none.
    """
    found = Measured(job.combination, job.tokens, job.precision, floor_ms)
    if job.refusal:
        return dataclasses.replace(found, refusal=job.refusal)
    denoiser = params["denoiser"]
    fresh = jax.jit(job.runs.carry)
    run = job.compiled["pass"]
    carry = run(denoiser, fresh(denoiser))
    error = timing.relative_error(jax.jit(job.runs.outcome)(carry), wanted)
    found = dataclasses.replace(found, error=error, compile_s=job.compile_s)

    def one_pass(carry: Any) -> tuple[Any, Any]:
        carry = run(denoiser, carry)
        return carry, carry[0]

    passes, carry = time_calls(Call(one_pass), carry, calls)
    found = dataclasses.replace(found, passes=passes)
    if profile_dir:
        carry = _trace(one_pass, carry, Profile(f"{profile_dir}/pass", "pass", 0))
    if "chain" in job.compiled:
        chain, seconds = job.compiled["chain"], []
        for _ in range(1 + repeats):
            begin = time.perf_counter()
            carry = jax.block_until_ready(chain(denoiser, carry))
            seconds.append(1e3 * (time.perf_counter() - begin) / job.passes)
        chained = statistics.median(seconds[1:])
        found = dataclasses.replace(found, chained_ms=chained)
    del carry
    if "step" in job.compiled:
        step = job.compiled["step"]

        def one_frame(carry: Any) -> tuple[Any, Any]:
            state, picture = step(params, *carry)
            return (state, picture), picture  # the next source: any picture will do

        carry = (jax.jit(job.open)(params), job.source())
        steps, carry = time_calls(Call(one_frame), carry, calls)
        found = dataclasses.replace(found, steps=steps)
        if profile_dir:
            _trace(one_frame, carry, Profile(f"{profile_dir}/step", "frame", 0))
    return found


def _trace(call: Callable[[Any], tuple[Any, Any]], carry: Any, profile: Profile) -> Any:
    """Calls beside those that are timed, which a trace would make slower."""
    with profile:
        for number in range(STEPS):
            carry, _ = profile(number, call, carry)
    return carry
