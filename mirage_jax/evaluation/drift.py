"""Watches a stream for any number of frames: pictures are measured and let go.

A stream is a step, `(state, moment) -> (state, styled)`, whatever is behind it: a
model, the teacher itself, or something that is known to drift. A scan runs it and keeps
a few numbers of every frame, so that 100,000 frames take no more memory than 100.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from mirage_jax.evaluation import metrics
from mirage_jax.pixels import to_floats


@flax.struct.dataclass
class Moment:
    """What all streams see at one frame; a clip has a leading axis T.

    Attributes:
      source: what the camera gives.
      target: the teacher's picture of it.
      one_shot: what the model makes of it without any memory.
      arrived: whether the stream gets the source.
    """

    source: UInt8[Array, "B H W 3"]
    target: UInt8[Array, "B H W 3"]
    one_shot: UInt8[Array, "B H W 3"]
    arrived: Bool[Array, " B"]


Step = Callable[[Any, Moment], tuple[Any, UInt8[Array, "B H W 3"]]]


@flax.struct.dataclass
class Measured:
    """Numbers of every frame of every stream.

    Attributes:
      psnr: against the teacher, dB.
      ssim: the same, of the luminance.
      one_shot: PSNR against what the model makes of the frame without memory, dB.
      forgetful: PSNR of that against the teacher, dB.
      colour: mean of every channel minus the teacher's, of [0, 1].
      spread: standard deviation of the channels over the teacher's.
      sharpness: over the teacher's; below 1 is blurred.
      still: share of the cells where the teacher stands still, since the frame before.
      still_change: mean squared change there, times their share, in levels of 8 bits
        (`metrics.cell_change`).
      still_teacher: the teacher's.
      moving_change, moving_teacher: the same where the teacher moves.
    """

    psnr: Float[Array, "T B"]
    ssim: Float[Array, "T B"]
    one_shot: Float[Array, "T B"]
    forgetful: Float[Array, "T B"]
    colour: Float[Array, "T B 3"]
    spread: Float[Array, "T B"]
    sharpness: Float[Array, "T B"]
    still: Float[Array, "T B"]
    still_change: Float[Array, "T B"]
    still_teacher: Float[Array, "T B"]
    moving_change: Float[Array, "T B"]
    moving_teacher: Float[Array, "T B"]


@flax.struct.dataclass
class Watch:
    """A stream under observation.

    Attributes:
      state: the stream's own.
      frame: frames seen so far.
      styled, target: the last frame.
      moments: numbers of the frames whose pictures are kept, from 1 on, in order.
      kept: those pictures.
    """

    state: Any
    frame: Int[Array, ""]
    styled: UInt8[Array, "B H W 3"]
    target: UInt8[Array, "B H W 3"]
    moments: Int[Array, " K"]
    kept: UInt8[Array, "K B H W 3"]


def begin(state: Any, shape: Sequence[int], moments: Sequence[int] = ()) -> Watch:
    """Before the first frame of streams whose pictures have this shape [B, H, W, 3]."""
    return Watch(
        state=state,
        frame=jnp.zeros((), jnp.int32),
        # Two buffers: a watch may be donated, and a buffer can be donated once.
        styled=jnp.zeros(shape, jnp.uint8),
        target=jnp.zeros(shape, jnp.uint8),
        moments=jnp.asarray(moments, jnp.int32),
        kept=jnp.zeros((len(moments), *shape), jnp.uint8),
    )


def watch(step: Step, seen: Watch, clip: Moment) -> tuple[Watch, Measured]:
    """Runs the stream over a clip [T, B, ...]; to be compiled, and called again.

    Args:
      step: the stream.
      seen: what `begin` gave, or the call before.
      clip: the next moments.
    """

    def one(seen: Watch, moment: Moment) -> tuple[Watch, Measured]:
        state, styled = step(seen.state, moment)
        measured = _measure(styled, moment, seen)
        number = seen.frame + 1
        kept = seen.kept
        if len(kept):
            # A place behind the last one is dropped.
            place = jnp.searchsorted(seen.moments, number)
            wanted = jnp.any(seen.moments == number)
            place = jnp.where(wanted, place, len(kept))
            kept = kept.at[place].set(styled, mode="drop")
        seen = dataclasses.replace(
            seen,
            state=state,
            frame=number,
            styled=styled,
            target=moment.target,
            kept=kept,
        )
        return seen, measured

    return jax.lax.scan(one, seen, clip)


def _measure(styled: Array, moment: Moment, before: Watch) -> Measured:
    image, wanted, alone = map(to_floats, (styled, moment.target, moment.one_shot))
    was = before.frame > 0
    change = metrics.cell_change(to_floats(before.styled), image)
    teacher = metrics.cell_change(to_floats(before.target), wanted)
    still = metrics.stands_still(teacher) & was
    moving = ~still & was

    def where(mask: Array, values: Array) -> Float[Array, " B"]:
        return jnp.mean(jnp.where(mask, values, 0.0), axis=(-2, -1))

    spread = jnp.mean(metrics.colour_spread(wanted), axis=-1)
    return Measured(
        psnr=metrics.psnr(image, wanted),
        ssim=metrics.ssim(metrics.luma(image), metrics.luma(wanted)),
        one_shot=metrics.psnr(image, alone),
        forgetful=metrics.psnr(alone, wanted),
        colour=metrics.colour_mean(image) - metrics.colour_mean(wanted),
        spread=metrics.colour_spread(image).mean(-1) / jnp.maximum(spread, 1e-6),
        sharpness=metrics.sharpness(image)
        / jnp.maximum(metrics.sharpness(wanted), 1e-6),
        still=where(still, jnp.ones_like(change)),
        still_change=where(still, change),
        still_teacher=where(still, teacher),
        moving_change=where(moving, change),
        moving_teacher=where(moving, teacher),
    )
