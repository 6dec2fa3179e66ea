"""Flow matching with step-size conditioning: times, noise, steps and losses.

A noisy latent at flow time tau is `(1 - tau) * noise + tau * data` (Lipman et al.
2023). The network is told tau and the size of the step about to be taken (shortcut
models, Frans et al. 2025) and predicts the data; the velocity follows from it. In
training every frame of a clip has its own tau (diffusion forcing, Chen et al. 2024).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

STEP_COUNTS = (1, 2, 4)  # passes a frame that the model is trained for
LEAST_NOISE = 1e-3  # keeps the velocity finite at tau = 1


@dataclasses.dataclass(frozen=True)
class NoiseMix:
    """How flow times are drawn for a training clip; probabilities of a clip.

    Attributes:
      all_noise: every frame is pure noise, as in a 1-step stream.
      shared: one time for all frames, drawn uniformly.
      independent: the rest; each frame is pure noise with probability
        `frame_noise`, nearly clean with `frame_clean`, else uniform.
    """

    all_noise: float = 0.35
    shared: float = 0.20
    frame_noise: float = 0.35
    frame_clean: float = 0.25
    clean_from: float = 0.75


def draw_times(
    key: Array, clips: int, frames: int, mix: NoiseMix
) -> Float[Array, "B T"]:
    """Flow times of a batch of clips."""
    kind_key, shared_key, kind_frame_key, frame_key, clean_key = jax.random.split(
        key, 5
    )
    shape = (clips, frames)
    kind = jax.random.uniform(kind_key, (clips, 1))
    shared = jax.random.uniform(shared_key, (clips, 1))
    frame_kind = jax.random.uniform(kind_frame_key, shape)
    uniform = jax.random.uniform(frame_key, shape)
    clean = jax.random.uniform(clean_key, shape, minval=mix.clean_from)
    frame = jnp.where(frame_kind < mix.frame_noise + mix.frame_clean, clean, uniform)
    frame = jnp.where(frame_kind < mix.frame_noise, 0.0, frame)
    tau = jnp.where(kind < mix.all_noise + mix.shared, shared, frame)
    return jnp.where(kind < mix.all_noise, 0.0, tau)


def draw_step_sizes(key: Array, tau: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """One of the trained step sizes for each frame, the smallest where it is too long.

    Nearly clean frames take no step any more; a commit writes them with the step size
    of its stream, so that they get any.
    """
    sizes = 1.0 / jnp.asarray(STEP_COUNTS)
    drawn = sizes[jax.random.randint(key, tau.shape, 0, len(STEP_COUNTS))]
    finished = tau > 1 - sizes[-1]
    return jnp.where((drawn <= 1 - tau) | finished, drawn, sizes[-1])


def draw_noise(
    key: Array, shape: tuple[int, ...], offset: float = 0.0
) -> Float[Array, "*n h w C"]:
    """Noise of frames, of spread one.

    Args:
      key: same key, same noise.
      shape: of the latents, [..., h, w, C].
      offset: share of the spread that all cells of a frame have in common, drawn for
        each channel ("offset noise", Guttenberg 2023). Plain noise has next to no mean:
        what a frame's noise has in common says something that every token can see.
    """
    if not offset:
        return jax.random.normal(key, shape)
    cell_key, frame_key = jax.random.split(key)
    cells = jax.random.normal(cell_key, shape)
    common = jax.random.normal(frame_key, (*shape[:-3], 1, 1, shape[-1]))
    return (1 - offset**2) ** 0.5 * cells + offset * common


def noisy(
    data: Float[Array, "B T h w C"],
    noise: Float[Array, "B T h w C"],
    tau: Float[Array, "B T"],
) -> Float[Array, "B T h w C"]:
    """The point at flow time tau on the straight path from noise to data."""
    tau = tau[..., None, None, None]
    return (1 - tau) * noise + tau * data


def velocity(
    x: Float[Array, "B T h w C"],
    predicted: Float[Array, "B T h w C"],
    tau: Float[Array, "B T"],
) -> Float[Array, "B T h w C"]:
    """d x / d tau towards the predicted data."""
    left = jnp.maximum(1 - tau, LEAST_NOISE)[..., None, None, None]
    return (predicted - x) / left


def take_step(
    x: Float[Array, "B T h w C"],
    predicted: Float[Array, "B T h w C"],
    tau: Float[Array, "B T"],
    step_size: Float[Array, "B T"],
) -> Float[Array, "B T h w C"]:
    """One Euler step; the step that ends at tau = 1 returns the prediction itself."""
    return x + step_size[..., None, None, None] * velocity(x, predicted, tau)


def frame_weight(tau: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Loss weight of a frame: errors near the data count more, bounded by 11.

    With s = 1 - tau this is 1.1 / (s^2 + 0.1): one at pure noise.
    """
    return 1.1 / ((1 - tau) ** 2 + 0.1)


def times_of_steps(steps: int) -> tuple[float, ...]:
    """Flow times at which a frame's passes start; the step size is 1 / steps."""
    return tuple(i / steps for i in range(steps))
