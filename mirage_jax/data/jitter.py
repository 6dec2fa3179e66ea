"""Colour jitter of a clip: gain, gamma, saturation and temperature, fixed over time."""

import jax.numpy as jnp
from jaxtyping import Array, Float

_LOG_GAIN = 0.22
_LOG_GAMMA = 0.28
_SATURATION = (0.6, 1.3)
_TEMPERATURE = 0.10  # log gain of red against blue

DRAWS = 4  # random numbers a clip


def jitter_colour(
    draws: Float[Array, " 4"],
    frames: Float[Array, "T h w 3"],
    log_exposure: Float[Array, " T"] | float = 0.0,
) -> Float[Array, "T h w 3"]:
    """Change the colours of all frames alike.

    Args:
      draws: uniform in [0, 1).
      frames: in [0, 1], and so is the result.
      log_exposure: added to the logarithm of each frame's gain (a camera path's
        exposure).
    """
    draws = 2.0 * draws - 1.0
    gain = jnp.exp(_LOG_GAIN * draws[0] + jnp.asarray(log_exposure, jnp.float32))
    gamma = jnp.exp(_LOG_GAMMA * draws[1])
    low, high = _SATURATION
    saturation = low + (high - low) * 0.5 * (draws[2] + 1.0)
    balance = jnp.exp(_TEMPERATURE * draws[3] * jnp.array([[[[1.0, 0.0, -1.0]]]]))
    grey = jnp.mean(frames, axis=-1, keepdims=True)
    frames = grey + saturation * (frames - grey)
    frames = (
        frames * balance * jnp.broadcast_to(gain, frames.shape[:1])[:, None, None, None]
    )
    # The floor keeps the power's slope finite and is below half a step of a byte.
    return jnp.clip(frames, 1e-4, 1.0) ** gamma
