"""Long streams of a model over looped clips, in every way that a stream can be run."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.config import ModelConfig
from mirage_jax.data.teachers import Style
from mirage_jax.device_weights import device_weights
from mirage_jax.evaluation import drift
from mirage_jax.evaluation.drift import Measured, Moment, Watch
from mirage_jax.evaluation.quality import Case
from mirage_jax.evaluation.streaming import Pair, round_trip, side_by_side
from mirage_jax.evaluation.targets import loop_context, loop_index, make_targets
from mirage_jax.frame_compiler import load_convolutions
from mirage_jax.modes import Mode
from mirage_jax.stream import StreamState, make_scan, open_stream, stream_step
from mirage_jax.stream_config import StreamConfig
from mirage_jax.weights import Model

Loops = UInt8[np.ndarray, "C T S S 3"]


@dataclasses.dataclass(frozen=True)
class LongStream:
    """What one case showed in one mode.

    Attributes:
      measured: numbers of every frame, numpy [n].
      pictures: styled frames at the moments asked for [K, S, S, 3].
    """

    measured: Measured
    pictures: UInt8[np.ndarray, "K S S 3"]


class Endless:
    """All programs for streams of one size, compiled when they are first needed.

    `prompts` may be set anew: streams that are opened from then on follow them.

    Args:
      model: the model on trial.
      stream: how streams run; the mode puts in commit and steps.
      styles: the teachers.
      prompts: embedding of each style's prompt [styles, 384].
      period: frames of a loop, a multiple of 8.
      seed: of the noise and of the corruption of sources.
    """

    def __init__(
        self,
        model: Model,
        stream: StreamConfig,
        styles: Sequence[Style],
        prompts: Float[np.ndarray, "n 384"],
        period: int,
        seed: int = 0,
    ):
        # A free run shows what the model does by itself, not the source repeated.
        self.stream = dataclasses.replace(stream, hold=0)
        self.styles, self.period, self.seed = styles, period, seed
        self.model, self.prompts = model.config, np.asarray(prompts, np.float32)
        self.params = jax.jit(device_weights, static_argnums=1)(model.params, stream)
        self._programs: dict[tuple[Any, ...], Any] = {}
        load_convolutions()

    def run(
        self,
        mode: Mode,
        cases: Sequence[Case],
        loops: Loops,
        frames: int,
        after: int = 0,
        moments: Sequence[int] = (),
    ) -> list[LongStream]:
        """Streams at most `batch` cases, looping their clips without end.

        Args:
          mode: commit, steps, and whether the source stops.
          cases: style and number of the loop.
          loops: clips without a cut, each of one period.
          frames: to run, rounded up to whole loops.
          after: of a free run, frames with a source.
          moments: frames to keep pictures of, from 1 on, in order.
        """
        config = self.of_mode(mode)
        opening, later = self.rounds(config, cases, loops)
        if mode.free:
            opening, later = _freed(opening, after)
        seen = drift.begin(self.open(config, cases), opening.target.shape[1:], moments)
        parts = []
        for number in range(-(-frames // self.period)):
            seen, measured = self.watch(config, seen, later if number else opening)
            parts.append(measured)
        measured = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(parts))
        kept = np.asarray(seen.kept)
        return [
            LongStream(jax.tree.map(lambda x, b=b: x[:, b], measured), kept[:, b])
            for b in range(len(cases))
        ]

    def through_codec(self, cases: Sequence[Case], loops: Loops) -> list[Measured]:
        """One loop of the teacher's own pictures, of which the codec made others.

        No model that shows its pictures by this codec can do better.
        """
        _, later = self._taught_rounds(cases, loops)
        source, target = side_by_side(later, self.stream.batch)
        arrived = jnp.ones(source.shape[:2], bool)
        clip = Moment(source, target, one_shot=target, arrived=arrived)
        program = self._once(
            ("codec",),
            lambda: jax.jit(partial(coded, model=self.model, stream=self.stream)),
        )
        seen = drift.begin(None, target.shape[1:])
        measured = jax.device_get(program(self.params["codec"], seen, clip))
        return [
            jax.tree.map(lambda x, b=b: x[:, b], measured) for b in range(len(cases))
        ]

    def watch(
        self, config: StreamConfig, seen: Watch, clip: Moment
    ) -> tuple[Watch, Measured]:
        """One loop of the stream under observation; `seen` is given away."""
        program = self._once(
            ("watch", config),
            lambda: jax.jit(
                partial(watched, model=self.model, stream=config), donate_argnums=1
            ),
        )
        after: tuple[Watch, Measured] = program(self.params, seen, clip)
        return after

    def of_mode(self, mode: Mode) -> StreamConfig:
        """How streams run in a mode."""
        return dataclasses.replace(self.stream, commit=mode.commit, steps=mode.steps)

    def rounds(
        self, config: StreamConfig, cases: Sequence[Case], loops: Loops
    ) -> tuple[Moment, Moment]:
        """The first loop and all others, which differ where effects have no past."""
        first, later = self._taught_rounds(cases, loops)
        opening = self._clip(config, cases, first)
        if all(one is other for one, other in zip(first, later, strict=True)):
            return opening, opening
        return opening, self._clip(config, cases, later)

    def _taught_rounds(
        self, cases: Sequence[Case], loops: Loops
    ) -> tuple[list[Pair], list[Pair]]:
        """Source and target of each case in `rounds`; one pair where they are alike."""
        first, later = [], []
        for case in cases:
            style, loop = self.styles[case.style], loops[case.clip]
            context = loop_context(style)
            first.append(self._taught(case, loop, 0))
            if context:
                before = np.concatenate([loop[-context:], loop])
                later.append(self._taught(case, before, context))
            else:
                later.append(first[-1])
        return first, later

    def prompts_of(
        self, config: StreamConfig, cases: Sequence[Case]
    ) -> Float[np.ndarray, "B 384"]:
        """Of each stream; the last case fills what is left over of the batch."""
        styles = [case.style for case in cases]
        styles += [styles[-1]] * (config.batch - len(styles))
        return self.prompts[np.asarray(styles)]

    def open(self, config: StreamConfig, cases: Sequence[Case]) -> StreamState:
        """Fresh streams."""
        key = jax.random.key(self.seed)
        begin = self._once(
            ("open",), lambda: jax.jit(open_stream, static_argnums=(1, 2))
        )
        prompts = self.prompts_of(config, cases)
        state: StreamState = begin(self.params, self.model, config, prompts, key)
        return state

    def _clip(
        self,
        config: StreamConfig,
        cases: Sequence[Case],
        pairs: Sequence[Pair],
    ) -> Moment:
        source, target = side_by_side(pairs, config.batch)
        forgetful = dataclasses.replace(config, memory=False)
        scan = self._once(
            ("one shot", forgetful), lambda: make_scan(self.model, forgetful)
        )
        _, one_shot = scan(self.params, self.open(forgetful, cases), source)
        return Moment(source, target, one_shot, jnp.ones(source.shape[:2], bool))

    def _taught(self, case: Case, frames: Any, context: int) -> Pair:
        style = self.styles[case.style]
        teach = self._once(
            ("teach", case.style, context),
            lambda: jax.jit(make_targets(style, context)),
        )
        index = loop_index(self.period, context)
        pair: Pair = teach(frames, index, case.key(self.seed))
        return pair

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """A program that is made when it is first needed, and kept."""
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]


def watched(
    params: Any, seen: Watch, clip: Moment, *, model: ModelConfig, stream: StreamConfig
) -> tuple[Watch, Measured]:
    """The model's stream under observation."""

    def step(state: Any, moment: Moment) -> tuple[Any, Array]:
        return stream_step(
            params, state, moment.source, moment.arrived, model=model, stream=stream
        )

    return drift.watch(step, seen, clip)


def coded(
    params: Any, seen: Watch, clip: Moment, *, model: ModelConfig, stream: StreamConfig
) -> Measured:
    """What the codec makes of the teacher's pictures, under observation."""

    def step(state: Any, moment: Moment) -> tuple[Any, Array]:
        return state, round_trip(params, moment.target, model.codec, stream.dtype)

    return drift.watch(step, seen, clip)[1]


def _freed(opening: Moment, after: int) -> tuple[Moment, Moment]:
    """Loops whose source goes after some frames; the last target stays."""
    here = jnp.arange(len(opening.target)) < after
    last = jnp.broadcast_to(opening.target[after - 1], opening.target.shape)
    target = jnp.where(here[:, None, None, None, None], opening.target, last)
    gone = jnp.zeros_like(opening.arrived)
    first = dataclasses.replace(opening, target=target, arrived=here[:, None] | gone)
    return first, dataclasses.replace(opening, target=last, arrived=gone)
