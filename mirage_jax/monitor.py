"""Notices that a stream has gone wrong: by a look at its latent, or by its habits.

A latent that is not finite or far too loud is broken, whatever came before. Short of
that, a stream is watched through a few statistics of its styled latent: the mean of
every channel (colour) and the root mean square (energy). Both are compared with their
slow averages. The source may change, and the picture with it, so a deviation counts
only beyond what the source deviates from its own slow averages.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Latents have unit spread; a healthy picture's root mean square stays near 1.
LOUDEST = 6.0
FIRST_JUDGED = 16  # frames before there is an average to be compared with
SLOWEST = 256  # frames that an average looks back, once there are so many
# What a healthy stream stays below under a source that stands still.
COLOUR, ENERGY = 0.35, 0.25
PER_SOURCE = 2.0  # of the source's own deviation is forgiven
FIRST_FADE, LEAST_FADE = 0.5, 0.1  # halved from frame to frame


@flax.struct.dataclass
class Statistics:
    """Of a latent, or their slow averages.

    Attributes:
      colour: mean of every channel.
      energy: logarithm of the root mean square.
    """

    colour: Float[Array, "B C"]
    energy: Float[Array, " B"]


@flax.struct.dataclass
class Monitor:
    """What is known of the streams of a batch.

    Attributes:
      styled, source: slow averages.
      frames: in the averages.
      astray: whether the last frame was wrong.
      fade: share of the last picture that the next one keeps, after such a frame.
      found: how often a stream went wrong, since it opened.
    """

    styled: Statistics
    source: Statistics
    frames: Int[Array, " B"]
    astray: Bool[Array, " B"]
    fade: Float[Array, " B"]
    found: Int[Array, " B"]


def new_monitor(batch: int, channels: int) -> Monitor:
    """Of streams that have no frame yet."""

    def nothing() -> Statistics:
        # Buffers of their own: a state is donated, and a buffer can be donated once.
        return Statistics(jnp.zeros((batch, channels)), jnp.zeros(batch))

    return Monitor(
        styled=nothing(),
        source=nothing(),
        frames=jnp.zeros(batch, jnp.int32),
        astray=jnp.zeros(batch, bool),
        fade=jnp.zeros(batch),
        found=jnp.zeros(batch, jnp.int32),
    )


def sound(latent: Float[Array, "B h w C"]) -> Bool[Array, " B"]:
    """Whether a latent is finite and not far too loud."""
    level = jnp.sqrt(jnp.mean(jnp.square(latent), axis=(1, 2, 3)))
    return level < LOUDEST  # NaN is not below anything


def statistics(latent: Float[Array, "B h w C"]) -> Statistics:
    """Of each stream's latent."""
    power = jnp.mean(jnp.square(latent), axis=(1, 2, 3))
    return Statistics(jnp.mean(latent, axis=(1, 2)), 0.5 * jnp.log(power + 1e-6))


def anew(monitor: Monitor | None, streams: Bool[Array, " B"] | None) -> Monitor | None:
    """The averages of the chosen streams begin anew: what comes next may differ.

    Args:
      monitor: None where nobody watches, and so is the result.
      streams: None means all.
    """
    if monitor is None:
        return None
    if streams is None:
        streams = jnp.ones_like(monitor.astray)
    return dataclasses.replace(
        monitor,
        frames=jnp.where(streams, 0, monitor.frames),
        fade=jnp.where(streams, 0.0, monitor.fade),
    )


def softened(
    monitor: Monitor, before: Float[Array, "B h w C"], styled: Float[Array, "B h w C"]
) -> Float[Array, "B h w C"]:
    """A styled latent, faded in over the one before where that had gone wrong."""
    fade = jnp.where(sound(before), monitor.fade, 0.0)[:, None, None, None]
    return jnp.where(fade > 0, styled + fade * (before - styled), styled)


def judge(
    monitor: Monitor,
    source: Float[Array, "B h w C"],
    styled: Float[Array, "B h w C"],
    present: Bool[Array, " B"],
) -> Monitor:
    """Looks at one frame; `astray` of the result says which streams went wrong.

    The averages of those begin anew, so that a look that has changed for good is
    taken for wrong once and then for its new habit. Habits are those under a source:
    without one a stream is judged by its loudness alone.
    """
    now, given = statistics(styled), statistics(source)
    colour, energy = _deviation(now, monitor.styled)
    source_colour, source_energy = _deviation(given, monitor.source)
    unlike = colour > COLOUR + PER_SOURCE * source_colour
    unlike |= energy > ENERGY + PER_SOURCE * source_energy
    unlike &= present & (monitor.frames >= FIRST_JUDGED)
    astray = ~sound(styled) | unlike
    frames = jnp.where(astray, 0, monitor.frames + present)
    counted = present & ~astray
    fade = jnp.where(monitor.fade > LEAST_FADE, monitor.fade / 2, 0.0)
    return Monitor(
        styled=_averaged(monitor.styled, now, frames, counted),
        source=_averaged(monitor.source, given, frames, counted),
        frames=frames,
        astray=astray,
        fade=jnp.where(astray, FIRST_FADE, fade),
        found=monitor.found + astray,
    )


def _deviation(
    now: Statistics, usual: Statistics
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    colour = jnp.sqrt(jnp.mean(jnp.square(now.colour - usual.colour), axis=-1))
    return colour, jnp.abs(now.energy - usual.energy)


def _averaged(
    usual: Statistics,
    now: Statistics,
    frames: Int[Array, " B"],
    counted: Bool[Array, " B"],
) -> Statistics:
    """The mean of all frames at first, then of about the last `SLOWEST`."""
    share = 1 / jnp.clip(frames, 1, SLOWEST)

    def mixed(old: Array, new: Array) -> Array:
        shape = (-1,) + (1,) * (new.ndim - 1)
        moved = old + share.reshape(shape) * (new - old)
        # A frame that went wrong leaves no trace, not even a NaN.
        return jnp.where(counted.reshape(shape), moved, old)

    return Statistics(mixed(usual.colour, now.colour), mixed(usual.energy, now.energy))
