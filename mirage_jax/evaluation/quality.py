"""Streams held-out clips through a model, every style on every clip, at one size."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax import stream as streams
from mirage_jax.data.teachers import Style
from mirage_jax.device_weights import device_weights
from mirage_jax.evaluation import streaming
from mirage_jax.evaluation.targets import loop_context, loop_index, make_targets
from mirage_jax.profiling import Profile
from mirage_jax.stream_config import StreamConfig
from mirage_jax.weights import Model

LOOP_MULTIPLE = 8  # the period of the shipped effects' corruption divides a loop
COMPILERS = 8  # programs compiled at a time


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
      stream: how streams run; size, steps, batch and memory are put in by the plan.
      length: frames of a clip, and of the loop of a long run; a multiple of 8.
      steps: denoiser passes a frame, one evaluation each.
      long_steps: the same for the long runs.
      long_frames: frames of a long run, rounded up to whole loops; 0 for none.
      batch: streams that run side by side.
      memory_gain: also stream with the cache emptied before every frame.
      seed: of the noise and of the corruption of sources.
    """

    stream: StreamConfig
    length: int = 96
    steps: tuple[int, ...] = (1, 2, 4)
    long_steps: tuple[int, ...] = (1, 2)
    long_frames: int = 1000
    batch: int = 32
    memory_gain: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2 * LOOP_MULTIPLE or self.length % LOOP_MULTIPLE:
            raise ValueError(
                f"{self.length=} must be a multiple of {LOOP_MULTIPLE} from "
                f"{2 * LOOP_MULTIPLE}"
            )

    @property
    def rounds(self) -> int:
        """Whole loops of a long run."""
        return -(-self.long_frames // self.length)


@dataclasses.dataclass(frozen=True)
class Case:
    """One style on one clip, by their numbers."""

    style: int
    clip: int

    def key(self, seed: int) -> Array:
        """Of what is random about its source."""
        key = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(key, self.style), self.clip)


@dataclasses.dataclass(frozen=True)
class CaseScores:
    """What one case measured.

    Attributes:
      case: style and clip.
      frames: measure to its value at every frame: "psnr/1" (by steps), "ssim/1",
        "sharpness/1", "change/1", "still/1", "psnr_forgetful/1" (cache emptied every
        frame), "psnr_codec", "ssim_codec", and the baselines' names.
      pictures: source, target and styled frame of the clip's middle at the first of
        the plan's steps.
    """

    case: Case
    frames: dict[str, Float[np.ndarray, " T"]]
    pictures: tuple[UInt8[np.ndarray, "S S 3"], ...]


@dataclasses.dataclass(frozen=True)
class LongRun:
    """PSNR of one case over a long run.

    Attributes:
      case: style and clip.
      steps: passes a frame.
      psnr: of every frame; frame t shows what frame t % length shows.
    """

    case: Case
    steps: int
    psnr: Float[np.ndarray, " n"]


class SizeBench:
    """All programs of one size, compiled for one device.

    Args:
      model: the model on trial.
      plan: what to measure.
      styles: the teachers.
      prompts: embedding of each style's prompt [styles, 384].
      size: height and width of all frames.
      device: where everything runs.
      profile: traces some of the clips that go through the stream.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        styles: Sequence[Style],
        prompts: Float[np.ndarray, "n 384"],
        size: int,
        device: jax.Device,
        profile: Profile | None = None,
    ):
        self.plan, self.styles, self.prompts = plan, styles, prompts
        self._model, self._size, self._device = model.config, size, device
        held = jax.jit(device_weights, static_argnums=1)
        self._params = held(jax.device_put(model.params, device), plan.stream)
        self._profile, self._number = profile or Profile("", "clip"), itertools.count()
        self._programs = streaming.compile_all(self._to_compile(), COMPILERS)

    def _stream(self, steps: int, memory: bool = True) -> StreamConfig:
        return dataclasses.replace(
            self.plan.stream,
            height=self._size,
            width=self._size,
            batch=self.plan.batch,
            steps=steps,
            memory=memory,
        )

    def _to_compile(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        plan, model, side = self.plan, self._model, self._size
        place = jax.sharding.SingleDeviceSharding(self._device)

        def shape(dims: tuple[int, ...], dtype: Any = jnp.uint8) -> Any:
            return jax.ShapeDtypeStruct(dims, dtype, sharding=place)

        def shapes(tree: Any) -> Any:
            return jax.tree.map(lambda x: shape(x.shape, x.dtype), tree)

        single = shape((plan.length, side, side, 3))
        clip = shape((plan.length, plan.batch, side, side, 3))
        key = shapes(jax.eval_shape(lambda: jax.random.key(0)))
        prompt = shape((plan.batch, self.prompts.shape[1]), jnp.float32)
        begin = jax.jit(streams.open_stream, static_argnums=(1, 2))

        programs: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "score": (jax.jit(streaming.score), (clip, clip)),
            "baselines": (jax.jit(streaming.baselines), (single, single)),
            "codec": (
                jax.jit(streaming.round_trips, static_argnums=(2, 3)),
                (self._params["codec"], clip, model.codec, plan.stream.dtype),
            ),
        }
        memories = (True, False) if plan.memory_gain else (True,)
        modes = {(steps, memory) for steps in plan.steps for memory in memories}
        modes |= {(steps, True) for steps in plan.long_steps if plan.long_frames}
        for steps, memory in sorted(modes):
            stream = self._stream(steps, memory)
            # What its passes are conditioned on is part of a state: each has its own.
            opened = (self._params, model, self._stream(steps), prompt, key)
            programs[f"open/{steps}"] = (begin, opened)
            state = shapes(begin.eval_shape(*opened))
            scan = streams.make_scan(model, stream)
            programs[f"stream/{steps}/{memory}"] = (scan, (self._params, state, clip))
        for style in self.styles:
            for context in sorted({0, loop_context(style)}):
                frames = plan.length + context
                programs[f"targets/{style.name}/{context}"] = (
                    jax.jit(make_targets(style, context)),
                    (
                        shape((frames, side, side, 3)),
                        shape((frames,), jnp.int32),
                        key,
                    ),
                )
        return programs

    def cases(
        self, cases: Sequence[Case], clips: UInt8[np.ndarray, "C T S S 3"]
    ) -> list[CaseScores]:
        """Scores of at most `batch` cases."""
        index = np.arange(self.plan.length, dtype=np.int32)
        clips = jax.device_put(clips, self._device)
        pairs = [self._targets(case, clips[case.clip], index) for case in cases]
        source, target = self._side_by_side(pairs)
        measured: list[dict[str, np.ndarray]] = [
            jax.device_get(self._programs["baselines"](*pair)) for pair in pairs
        ]
        del pairs

        def note(name: str, values: Array) -> None:
            for row, frames in zip(measured, np.asarray(values).T, strict=False):
                row[name] = frames

        decoded = self._programs["codec"](self._params["codec"], target)
        scores = self._programs["score"](decoded, target)
        note("psnr_codec", scores.psnr)
        note("ssim_codec", scores.ssim)
        del decoded
        middle = self.plan.length // 2
        shown = [source[middle], target[middle]]
        for steps in self.plan.steps:
            _, styled = self._run(steps, True, self._open(cases, steps), source)
            scores = self._programs["score"](styled, target)
            for field in dataclasses.fields(scores):
                note(f"{field.name}/{steps}", getattr(scores, field.name))
            if steps == self.plan.steps[0]:
                shown.append(styled[middle])
            if self.plan.memory_gain:
                _, styled = self._run(steps, False, self._open(cases, steps), source)
                scores = self._programs["score"](styled, target)
                note(f"psnr_forgetful/{steps}", scores.psnr)
        pictures = [np.asarray(one) for one in shown]
        return [
            CaseScores(case, measured[place], tuple(one[place] for one in pictures))
            for place, case in enumerate(cases)
        ]

    def codec(self, clips: UInt8[np.ndarray, "C T S S 3"]) -> dict[str, np.ndarray]:
        """The codec alone on untouched clips: "psnr" and "ssim" [C, T]."""
        psnr, ssim = [], []
        for start in range(0, len(clips), self.plan.batch):
            part = clips[start : start + self.plan.batch]
            frames, _ = self._side_by_side([(clip, clip) for clip in part])
            decoded = self._programs["codec"](self._params["codec"], frames)
            scores = self._programs["score"](decoded, frames)
            psnr.append(np.asarray(scores.psnr).T[: len(part)])
            ssim.append(np.asarray(scores.ssim).T[: len(part)])
        return {"psnr": np.concatenate(psnr), "ssim": np.concatenate(ssim)}

    def long_runs(
        self,
        cases: Sequence[Case],
        loops: UInt8[np.ndarray, "C T S S 3"],
    ) -> list[LongRun]:
        """Endless loops for at most `batch` cases; `case.clip` counts the loops."""
        first, later = [], []
        for case in cases:
            loop, context = loops[case.clip], loop_context(self.styles[case.style])
            index = np.asarray(loop_index(self.plan.length, 0))
            first.append(self._targets(case, loop, index))
            if context:
                before = np.concatenate([loop[-context:], loop])
                index = np.asarray(loop_index(self.plan.length, context))
                later.append(self._targets(case, before, index, context))
            else:
                later.append(first[-1])
        rounds = [self._side_by_side(first), self._side_by_side(later)]
        del first, later
        runs = []
        for steps in self.plan.long_steps:
            state, psnr = self._open(cases, steps), []
            for number in range(self.plan.rounds):
                source, target = rounds[min(number, 1)]
                state, styled = self._run(steps, True, state, source)
                psnr.append(self._programs["score"](styled, target).psnr)
            history = np.concatenate(jax.device_get(psnr))
            runs += [
                LongRun(case, steps, history[:, place])
                for place, case in enumerate(cases)
            ]
        return runs

    def _targets(
        self, case: Case, frames: Any, index: np.ndarray, context: int = 0
    ) -> tuple[Array, Array]:
        key = case.key(self.plan.seed)
        program = self._programs[f"targets/{self.styles[case.style].name}/{context}"]
        return program(*jax.device_put((frames, index, key), self._device))

    def _side_by_side(self, pairs: Sequence[tuple[Any, Any]]) -> tuple[Array, Array]:
        first, second = streaming.side_by_side(pairs, self.plan.batch, self._device)
        return first, second

    def _open(self, cases: Sequence[Case], steps: int) -> Any:
        styles = [case.style for case in cases]
        styles += [styles[-1]] * (self.plan.batch - len(styles))
        prompt = self.prompts[np.asarray(styles)].astype(np.float32)
        key = jax.random.key(self.plan.seed)
        place = jax.device_put((prompt, key), self._device)
        return self._programs[f"open/{steps}"](self._params, *place)

    def _run(self, steps: int, memory: bool, state: Any, source: Array) -> Any:
        program = self._programs[f"stream/{steps}/{memory}"]
        number = next(self._number)
        return self._profile(number, program, self._params, state, source)
