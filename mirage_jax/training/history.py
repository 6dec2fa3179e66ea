"""History augmentation: training on a past as flawed as the model's own.

A stream that reads its own output feeds on its errors unless it has learnt to repair
them. So in training the latents that a frame's history is made of are corrupted, while
every target stays clean. The parts, each of which can be switched off for an ablation:
the model's own outputs, round trips through the codec, frames that were repeated or
lost, gain and colour shifts, blur, noise.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Latents = Float[Array, "B T h w C"]
# Makes another history of some clips, from their rows in the batch and their latents.
Remake = Callable[[Int[Array, " n"], Float[Array, "n T h w C"]], Array]


@dataclasses.dataclass(frozen=True)
class HistoryAugmentation:
    """Strengths in units of the latents' spread; 0 switches a part off.

    Attributes:
      probability: share of clips (in a roll-out: of frames) whose history is corrupted.
      gain: spread of a factor common to all frames and channels of a clip.
      shift: spread of an offset per clip and channel (a colour cast).
      blur: largest share of a 3x3 mean mixed into a frame.
      noise: largest noise added to a frame.
      repeat: share of frames replaced by the frame before.
      drop: share of frames of which nothing is left: zero, the mean latent.
      round_trip: share of clips that are decoded, rounded to bytes and encoded again.
      own: share of clips that are replaced by what the model makes of their sources.
    """

    probability: float = 0.5
    gain: float = 0.1
    shift: float = 0.15
    blur: float = 0.5
    noise: float = 0.3
    repeat: float = 0.1
    drop: float = 0.05
    round_trip: float = 0.125
    own: float = 0.25


def _mean_3x3(x: Latents) -> Latents:
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[:, :, :, :-2] + rows[:, :, :, 1:-1] + rows[:, :, :, 2:]) / 9


def _remade(key: Array, x: Latents, share: float, remake: Remake | None) -> Latents:
    """A share of the clips made anew; the others cost nothing."""
    if not share or remake is None:
        return x
    count = max(1, round(share * len(x)))
    rows = jax.random.permutation(key, len(x))[:count]
    return x.at[rows].set(jax.lax.stop_gradient(remake(rows, x[rows])))


def corrupt_history(
    key: Array,
    latents: Latents,
    settings: HistoryAugmentation,
    *,
    own: Remake | None = None,
    round_trip: Remake | None = None,
) -> Latents:
    """Corrupted copies of styled latents; some clips come back unchanged.

    Args:
      key: same key, same corruption.
      latents: of the teacher.
      settings: `own` and `round_trip` must be plain numbers.
      own: gives what the model makes of some clips' sources; None leaves the part out.
      round_trip: sends latents through the codec; None leaves the part out.
    """
    keys = jax.random.split(key, 11)
    clips, frames, _, _, channels = latents.shape
    per_clip, per_frame = (clips, 1, 1, 1, 1), (clips, frames, 1, 1, 1)
    x = _remade(keys[8], latents, settings.own, own)
    x = _remade(keys[9], x, settings.round_trip, round_trip)
    before = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    repeated = jax.random.uniform(keys[0], per_frame) < settings.repeat
    x = jnp.where(repeated, before, x)
    x = x * (1 + settings.gain * jax.random.normal(keys[1], per_clip))
    shift = jax.random.normal(keys[2], (clips, 1, 1, 1, channels))
    x = x + settings.shift * shift * jax.random.uniform(keys[3], per_clip)
    share = settings.blur * jax.random.uniform(keys[4], per_frame)
    x = x + share * (_mean_3x3(x) - x)
    level = settings.noise * jax.random.uniform(keys[5], per_frame) ** 2
    x = x + level * jax.random.normal(keys[6], x.shape)
    x = jnp.where(jax.random.uniform(keys[10], per_frame) < settings.drop, 0.0, x)
    chosen = jax.random.uniform(keys[7], per_clip) < settings.probability
    return jnp.where(chosen, x, latents)
