"""History augmentation: training on a past as flawed as the model's own.

A stream that reads its own output feeds on its errors unless it has learnt to repair
them. So in training the latents that a frame's history is made of are corrupted, while
every target stays clean: gain and colour shifts, blur, noise, and frames that were
repeated instead of arriving. Each part can be switched off for an ablation.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class HistoryAugmentation:
    """Strengths in units of the latents' spread; 0 switches a part off.

    Attributes:
      probability: share of clips that get a corrupted history.
      gain: spread of a factor common to all frames and channels of a clip.
      shift: spread of an offset per clip and channel (a colour cast).
      blur: largest share of a 3x3 mean mixed into a frame.
      noise: largest noise added to a frame.
      repeat: share of frames replaced by the frame before.
    """

    probability: float = 0.5
    gain: float = 0.1
    shift: float = 0.15
    blur: float = 0.5
    noise: float = 0.3
    repeat: float = 0.1


def _mean_3x3(x: Float[Array, "B T h w C"]) -> Float[Array, "B T h w C"]:
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[:, :, :, :-2] + rows[:, :, :, 1:-1] + rows[:, :, :, 2:]) / 9


def corrupt_history(
    key: Array, latents: Float[Array, "B T h w C"], settings: HistoryAugmentation
) -> Float[Array, "B T h w C"]:
    """Corrupted copies of styled latents; some clips come back unchanged."""
    keys = jax.random.split(key, 8)
    clips, frames, _, _, channels = latents.shape
    per_clip, per_frame = (clips, 1, 1, 1, 1), (clips, frames, 1, 1, 1)
    x = latents
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
    chosen = jax.random.uniform(keys[7], per_clip) < settings.probability
    return jnp.where(chosen, x, latents)
