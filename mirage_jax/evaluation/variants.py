"""Does a stream stay with the variant of a style that it chose in its first frames?

A varied style (`data/varied_styles.py`) has several right answers, so a frame is
compared with each of them. A stream that forgets its choice jumps between variants; one
that never chose shows their mean, which is blurred and near to none.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mirage_jax.data.teachers import Style, variant_looks
from mirage_jax.evaluation import metrics
from mirage_jax.evaluation.checks import Check
from mirage_jax.evaluation.endless import Endless, Loops, Mode
from mirage_jax.evaluation.quality import Case
from mirage_jax.evaluation.summary import OPENING
from mirage_jax.pixels import to_bytes, to_floats
from mirage_jax.stream import StreamState, frame_noise, stream_step
from mirage_jax.training.variants import variant_of_noise

KEPT = 0.95  # of the streams
SHARPNESS = 0.1  # of the teacher's


@flax.struct.dataclass
class Choice:
    """Numbers of every frame of every stream.

    Attributes:
      errors: mean squared error against the style's look in each variant, of [0, 1].
      sharpness: over that of each variant's look.
      named: by the noise that the frame was made of.
    """

    errors: Float[Array, "T B V"]
    sharpness: Float[Array, "T B V"]
    named: Int[Array, "T B"]


def compare(
    style: Style, source: Array, styled: Array
) -> tuple[Float[Array, "B V"], Float[Array, "B V"]]:
    """One frame of every stream, uint8 [B, H, W, 3], against all variants.

    Returns errors and sharpness as `Choice` has them.
    """
    shown = to_floats(styled)
    looks = to_floats(to_bytes(variant_looks(style, to_floats(source))))
    teacher = jnp.maximum(metrics.sharpness(looks), 1e-6)  # [V, B]
    errors = jnp.square(shown[None] - looks).mean((2, 3, 4))
    return errors.T, (metrics.sharpness(shown)[None] / teacher).T


def watch_choice(
    endless: Endless,
    mode: Mode,
    style: Style,
    cases: Sequence[Case],
    loops: Loops,
    frames: int,
) -> Choice:
    """Streams of one varied style over looped clips, `endless.stream.batch` at most.

    Args:
      endless: the model; streams of a batch have noise of their own.
      mode: commit and steps.
      style: has a `look`.
      cases: of this style.
      loops: clips without a cut, each of one period.
      frames: to run, rounded up to whole loops.

    Returns:
      Numpy arrays of the cases, [n, B, V] and [n, B].

    Raises:
      MirageError: the style has one look only.
    """
    config = endless.of_mode(mode)
    rows = [case.clip for case in cases]
    rows += [rows[-1]] * (config.batch - len(rows))
    clip = jax.device_put(np.stack([loops[row] for row in rows], axis=1))

    def step(
        params: Any, state: StreamState, source: UInt8[Array, "B H W 3"]
    ) -> tuple[StreamState, Choice]:
        named = variant_of_noise(frame_noise(state, config, endless.model))
        state, styled = stream_step(
            params, state, source, model=endless.model, stream=config
        )
        return state, Choice(*compare(style, source, styled), named)

    @partial(jax.jit, donate_argnums=1)
    def watched(params: Any, state: StreamState, clip: Array) -> Any:
        return jax.lax.scan(partial(step, params), state, clip)

    state, parts = endless.open(config, cases), []
    for _ in range(-(-frames // len(clip))):
        state, choice = watched(endless.params, state, clip)
        parts.append(jax.device_get(choice))
    return jax.tree.map(lambda *x: np.concatenate(x)[:, : len(cases)], *parts)


def choice_values(choice: Choice, period: int) -> dict[str, float]:
    """What the streams of one style in one mode say.

    Args:
      choice: as numpy arrays, n frames in whole loops.
      period: frames of a loop.

    Returns:
      variant_kept: share of the streams that are nearest to the same variant in their
        last loop as in their first frames; variant_wandered: share of all frames that
        are nearest to another one. variants_chosen: how many variants streams chose.
        variant_as_named: share of the streams whose choice is the one that the noise of
        their first frame names, as training does; by chance it would be one of V.
        variant_psnr_first, variant_psnr_last: against the variant that was chosen, in
        the first frames and in the last loop. variant_margin: how much nearer the last
        loop is to the nearest variant than to the next, dB. variant_sharpness: of the
        last loop over that variant's.

    Raises:
      ValueError: the frames are no whole loops.
    """
    errors, sharpness = np.asarray(choice.errors), np.asarray(choice.sharpness)
    frames, streams, _ = errors.shape
    if frames % period or not frames:
        raise ValueError(f"{frames} frames are not whole loops of {period=}")
    first, last = (
        errors[slice(*OPENING)].mean(0),
        errors[-period:].mean(0),
    )
    chosen, each = first.argmin(-1), np.arange(streams)
    nearest = np.sort(last, axis=-1)
    values = {
        "variant_kept": np.mean(last.argmin(-1) == chosen),
        "variant_wandered": np.mean(errors.argmin(-1) != chosen[None]),
        "variants_chosen": len(set(chosen.tolist())),
        "variant_as_named": np.mean(chosen == np.asarray(choice.named)[0]),
        "variant_psnr_first": np.mean(_decibel(first[each, chosen])),
        "variant_psnr_last": np.mean(_decibel(last[each, chosen])),
        "variant_margin": np.mean(_decibel(nearest[:, 0]) - _decibel(nearest[:, 1])),
        "variant_sharpness": sharpness[-period:].mean(0)[each, chosen].mean(),
    }
    return {name: float(value) for name, value in values.items()}


def choice_checks(values: dict[str, float], path: str) -> list[Check]:
    """The bars of one style in one mode; `path` stands behind their names.

    One variant for all streams would be kept easily: there must be a choice.
    """
    found, sharpness = values["variants_chosen"], values["variant_sharpness"]
    return [
        Check(f"variant_kept/{path}", values["variant_kept"], KEPT, True),
        Check(f"variants_chosen/{path}", found, 2, True),
        Check(f"variant_sharpness_low/{path}", sharpness, 1 - SHARPNESS, True),
        Check(f"variant_sharpness_high/{path}", sharpness, 1 + SHARPNESS, False),
    ]


def _decibel(errors: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    found: np.ndarray = -10 * np.log10(np.maximum(errors, 1e-10))
    return found
