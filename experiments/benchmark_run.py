"""The parts of the benchmark of the frame, one after another, on one device."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.backends_used import backends_used
from experiments.call_timing import Call, back_to_back, time_calls, waited_calls
from experiments.frame_programs import LEFT_OUT, ExactFrame, FrameProgram, outcome
from experiments.frame_report import (
    cost_results,
    error_results,
    frame_results,
    most_error,
    stage_results,
    stream_results,
    transfer_results,
)
from experiments.frame_timing import (
    double_buffered,
    plain_transfers,
    rounds_of,
    stages_of,
)
from experiments.named_model import NamedModel
from experiments.program_memory import planned_memory
from experiments.side_by_side import compile_side_by_side
from experiments.source_feed import SourceFeed
from mirage_jax.chips import Chip
from mirage_jax.device_weights import held_weights
from mirage_jax.evaluation.clips import to_and_fro
from mirage_jax.precision import fields_of, precision_of
from mirage_jax.results import Result
from mirage_jax.stream import encode_frame
from mirage_jax.stream_config import StreamConfig
from pallas_kernels.timing import relative_error

BATCHED_SOURCES = 16  # moments of the clip that batches go round


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
      frames: that are waited for, and as many that are not.
      rounds: in which programs with a stage left out have their turn.
      calls: of a turn.
      batches: of every number of streams.
    """

    frames: int
    rounds: int
    calls: int
    batches: int


@dataclasses.dataclass
class Run:
    """What all parts share, and what they find.

    Attributes:
      named: model and weights.
      side: of the frame, pixels.
      clip: real source frames on the host, [T, S, S, 3].
      chips: ceilings, by whose they are.
      amounts: how much is measured.
      options: for the compiler.
      add: takes what was found, prints and writes it.
      backends: of each operation, by program.
      refused: why a program did not run.
      wrong: rows whose frames are not those of the definition.
    """

    named: NamedModel
    side: int
    clip: np.ndarray
    chips: dict[str, Chip]
    amounts: Amounts
    options: dict[str, Any] | None
    add: Callable[[list[Result]], None]
    backends: dict[str, dict[str, str | None]] = dataclasses.field(default_factory=dict)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)
    _weights: dict[StreamConfig, Any] = dataclasses.field(default_factory=dict)
    _steps: dict[str, Any] = dataclasses.field(default_factory=dict)

    def stream(self, precision: str, steps: int, **more: Any) -> StreamConfig:
        """As the library chooses, but for what is named."""
        side = self.side
        return StreamConfig(side, side, steps=steps, **fields_of(precision), **more)

    def frames(self, streams: Sequence[StreamConfig], transfers: bool) -> None:
        """Whole frames, each row checked before its times are taken."""
        programs: dict[str, Any] = {}
        for s in streams:
            programs[f"{row_of(s)}/frame"] = FrameProgram(self.named.config, s)
            programs[_definition(s)] = ExactFrame(self.named.config, s)
        compiled = self._compile(programs)
        for s in streams:
            row = row_of(s)
            step, exact = compiled.get(f"{row}/frame"), compiled.get(_definition(s))
            if step is None or exact is None:
                continue
            if self._check(s, step, exact):
                self._steps[row] = step
                planned = planned_memory(*step.stages.values())
                self.add(planned.to_results(row))
                self._time(s, step, transfers)
            else:
                self.wrong.append(row)

    def right(self, stream: StreamConfig) -> bool:
        """Whether `frames` found this row's frames right."""
        return row_of(stream) in self._steps

    def stages(self, streams: Sequence[StreamConfig], commits: Sequence[str]) -> None:
        """Stages of the rows that were right, and other commits of the first one.

        Of the first row's precision alone: each row costs four more programs.
        """
        model = self.named.config
        kind = precision_of(streams[0])
        streams = [s for s in streams if self.right(s) and precision_of(s) == kind]
        programs: dict[str, Any] = {}
        for s in streams:
            for part in LEFT_OUT:
                programs[f"{row_of(s)}/without_{part}"] = FrameProgram(model, s, part)
            for commit in commits if s is streams[0] else ():
                other = dataclasses.replace(s, commit=commit)
                path = f"{row_of(s)}/commit_{commit}"
                programs[path] = FrameProgram(model, other, "nothing")
        compiled = self._compile(programs)
        for s in streams:
            row, params = row_of(s), self._params(s)
            sources = jax.device_put(self._sources(s))
            encode = jax.jit(partial(encode_frame, model=model, stream=s))
            latents = [encode(params, source) for source in sources]
            calls = {}
            for path, program in programs.items():
                name = path.removeprefix(f"{row}/")
                if name != path and path in compiled:
                    given = latents if program.without == "encode" else sources
                    calls[name] = self._part_call(program, compiled[path], given)
            found = rounds_of(calls, self.amounts.rounds, self.amounts.calls)
            if "without_nothing" in found:
                self.add(stage_results(row, stages_of(found, s.steps)))

    def streams(self, stream: StreamConfig, counts: Sequence[int]) -> None:
        """Several streams side by side, in one precision and number of steps."""
        programs: dict[str, Any] = {}
        for count in counts:
            several = dataclasses.replace(stream, batch=count)
            programs[f"streams/{count}"] = FrameProgram(self.named.config, several)
        compiled = self._compile(programs)
        for path, step in compiled.items():
            s = programs[path].stream
            try:
                call, carry = self._call(s, step)
                calls, _ = time_calls(call, carry, self.amounts.batches)
            except jax.errors.JaxRuntimeError as error:  # no memory for so many
                self._refuse(path, error)
                continue
            self.add(stream_results(s.batch, calls))

    def _compile(self, programs: dict[str, Any]) -> dict[str, Any]:
        """Those that compile, by name; the others are noted."""
        lowered = {}
        for path, program in programs.items():
            try:
                weights = self._params(program.stream)
                if isinstance(program, ExactFrame):
                    lowered[path] = program.lower(self.named.params, weights)
                else:
                    lowered[path] = program.lower(weights)
                    self.backends[path] = backends_used(program.stream)
            except Exception as failure:  # any library may fail in any way
                self._refuse(path, failure)
        found = {}
        done = compile_side_by_side(
            lowered,
            self.options,
            lambda path, seconds: print(f"  compiled {path}: {seconds:.1f} s"),
        )
        times = []
        for path, one in done.items():
            if isinstance(one, Exception):
                self._refuse(path, one)
                continue
            found[path], seconds = one
            if path in self.backends:  # the definition's program is nobody's
                times.append(Result(f"compile_s/{path}", seconds, "s", "lower"))
        self.add(times)
        return found

    def _refuse(self, path: str, failure: Exception) -> None:
        first = (str(failure).splitlines() or [""])[0][:160]
        self.refused[path] = f"{type(failure).__name__}: {first}"
        print(f"{path} did not run: {self.refused[path]}")

    def _check(self, stream: StreamConfig, step: Any, exact: Any) -> bool:
        """Whether a frame in the middle of a stream is that of the definition."""
        params, row = self._params(stream), row_of(stream)
        call, state = self._call(stream, step)
        for _ in range(self.named.config.denoiser.ring + 2):
            state, _ = call.run(state)
        source = jnp.asarray(self.clip[-1:])
        wanted = exact(self.named.params, state, source)
        state, picture = step(params, state, source)
        found = outcome(state, picture, self.named.config)
        errors = {
            what: relative_error(found[what], wanted[what])
            for what in ("picture", "latent", "k", "v")
        }
        worst = max(errors.values(), key=lambda error: (error != error, error))
        right = worst <= most_error(stream)
        verdict = "right" if right else "WRONG"
        print(
            f"{row}: error {worst:.1e}, at most {most_error(stream):g}: {verdict}",
            flush=True,
        )
        finite = {what: error for what, error in errors.items() if np.isfinite(error)}
        self.add(error_results(row, finite))
        return right

    def _time(self, stream: StreamConfig, step: Any, transfers: bool) -> None:
        row, count = row_of(stream), self.amounts.frames
        call, carry = self._call(stream, step)
        times, carry = waited_calls(call, carry, count)
        together, carry = back_to_back(call, carry, count)
        model = self.named.config
        self.add(frame_results(row, times, together))
        self.add(cost_results(row, model, stream, self.chips, together))
        if not transfers:
            return
        params = self._params(stream)
        for kind, run in (
            ("plain", plain_transfers),
            ("double_buffered", double_buffered),
        ):
            found, carry = run(
                lambda state, source: step(params, state, source),
                carry,
                self._on_host(),
                count,
            )
            self.add(transfer_results(row, kind, found))

    def _params(self, stream: StreamConfig) -> Any:
        """Weights as this stream reads them; those of a precision are shared."""
        key = StreamConfig(dtype=stream.dtype, eight_bit=stream.eight_bit)
        if key not in self._weights:
            self._weights[key] = held_weights(self.named.params, key)
        return self._weights[key]

    def _call(self, stream: StreamConfig, step: Any) -> tuple[Call, Any]:
        """The step as `call_timing` takes it, on real frames; a fresh state."""
        params, feed = self._params(stream), SourceFeed(self._sources(stream))
        call = Call(lambda state: step(params, state, feed.take()), feed.ready)
        return call, self._fresh(stream)

    def _part_call(
        self, program: FrameProgram, step: Any, given: Sequence[Any]
    ) -> tuple[Call, Any]:
        """The same of a program without a stage, which uses up nothing but its carry.

        Args:
          program: what was compiled.
          step: compiled.
          given: sources or their latents, on the device.
        """
        params, turn = self._params(program.stream), itertools.cycle(given)

        def run(carry: Any) -> tuple[Any, Any]:
            state, spare = carry
            state, result = step(params, state, next(turn), spare)
            return (state, None if program.without == "decode" else result), result

        s = program.stream
        spare = jnp.zeros((s.batch, s.height, s.width, 3), jnp.uint8)
        carry = None if program.without == "decode" else spare
        return Call(run), (self._fresh(s), carry)

    def _fresh(self, stream: StreamConfig) -> Any:
        program = FrameProgram(self.named.config, stream)
        return jax.jit(program.open)(self._params(stream))

    def _sources(self, stream: StreamConfig) -> list[np.ndarray]:
        """The clip to and fro on the host; every stream begins at another moment."""
        order = _order(len(self.clip))
        count, streams = len(order), stream.batch
        moments = range(count if streams == 1 else min(count, BATCHED_SOURCES))
        begins = np.arange(streams) * count // streams
        return [self.clip[order[(m + begins) % count]] for m in moments]

    def _on_host(self) -> Iterator[np.ndarray]:
        return itertools.cycle(self.clip[[moment]] for moment in _order(len(self.clip)))


def row_of(stream: StreamConfig) -> str:
    """What a row of the benchmark is called, "bfloat16/1"."""
    return f"{precision_of(stream)}/{stream.steps}"


def _definition(stream: StreamConfig) -> str:
    """Name of the float32 program, which is the same in all precisions."""
    return f"definition/{stream.dtype}/{stream.steps}"


def _order(frames: int) -> np.ndarray:
    return to_and_fro(2 * (frames - 1)) if frames > 1 else np.zeros(1, int)
