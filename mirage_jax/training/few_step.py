"""Few-step objectives: what else than the data a denoiser may be trained to predict.

Plain regression asks for the data at every step size. Two objectives of the literature
ask the model for agreement with itself, so that few passes end where more would:

- "shortcut" (Frans et al. 2025, https://arxiv.org/abs/2410.12557): one step of size d
  goes where two of its own steps of d / 2 go.
- "consistency" (Song et al. 2023, https://arxiv.org/abs/2303.01469, trained on data
  without a teacher): a prediction is that of a later point of the same path, which has
  less noise; at its end that is the data.

Both have a real-data term: a share `real` of each target stays the data, without which
agreement alone could settle on anything. With a teacher that has one answer all
objectives have the same optimum, and differ in how they get there.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mirage_jax import flow
from mirage_jax.errors import MirageError

OBJECTIVES = ("regression", "shortcut", "consistency")

Latents = Float[Array, "n T h w C"]
Times = Float[Array, "n T"]
# Predicted data, without a gradient, from noisy latents, flow times and step sizes.
Predict = Callable[[Latents, Times, Times], Latents]
# The same of some clips, by their rows in the batch and their pasts.
PredictRows = Callable[[Int[Array, " n"], Latents, Latents, Times, Times], Latents]


@dataclasses.dataclass(frozen=True)
class FewStep:
    """How a denoiser learns to need few steps; static.

    Attributes:
      objective: one of `OBJECTIVES`; "regression" has no targets but the data.
      share: share of the clips with targets of the objective.
      real: share of such a target that is the data all the same.
      ahead: how much later, in flow time, the point is that consistency looks at.
    """

    objective: str = "regression"
    share: float = 0.25
    real: float = 0.25
    ahead: float = 0.25

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise MirageError(
                f"objective={self.objective!r}: choose one of {', '.join(OBJECTIVES)}"
            )
        for name in ("share", "real", "ahead"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise MirageError(f"{name}={value}: take a share from 0 to 1")

    def count(self, clips: int) -> int:
        """Clips of a batch with targets of the objective."""
        if self.objective == "regression":
            return 0
        return min(clips, max(1, round(self.share * clips)))


def draw_whole_steps(key: Array, tau: Times) -> tuple[Times, Times]:
    """Flow times and step sizes where a stream's step begins, one size a clip.

    Sizes are those that have a half that is trained too; every frame begins at some
    multiple of it.
    """
    size_key, place_key = jax.random.split(key)
    sizes = 1.0 / jnp.asarray(flow.STEP_COUNTS[:-1])
    drawn = jax.random.randint(size_key, (len(tau), 1), 0, len(sizes))
    step = jnp.broadcast_to(sizes[drawn], tau.shape)
    place = jnp.floor(jax.random.uniform(place_key, tau.shape) / step)
    return place * step, step


def shortcut_targets(x: Latents, tau: Times, step: Times, predict: Predict) -> Latents:
    """Data that one step of size `step` has to predict to go where two halves go."""
    half, there = step / 2, x
    for begin in (tau, tau + half):
        there = flow.take_step(there, predict(there, begin, half), begin, half)
    left = (1 - tau)[..., None, None, None]
    return x + left * (there - x) / step[..., None, None, None]


def consistency_targets(
    path: Callable[[Times], Latents],
    clean: Latents,
    tau: Times,
    ahead: float,
    predict: Predict,
) -> Latents:
    """What the model predicts later on the same path; the data where that is its end.

    Args:
      path: noisy latents by flow times.
      clean: the data, where the path ends.
      tau: flow times of the prediction that is trained.
      ahead: how much later.
      predict: the model, which is asked by its shortest step.
    """
    later = jnp.minimum(tau + ahead, 1.0)
    shortest = jnp.full_like(later, 1 / flow.STEP_COUNTS[-1])
    found = predict(path(later), later, shortest)
    return jnp.where((later < 1)[..., None, None, None], found, clean)


def ask(
    key: Array,
    few: FewStep,
    clean: Latents,
    history: Latents,
    noise: Latents,
    tau: Times,
    step: Times,
    predict: PredictRows,
) -> tuple[Latents, Times, Times]:
    """What is asked of the clips of a batch, and where on their paths.

    Args:
      key: same key, same clips of the objective.
      few: the objective, and how much of it.
      clean: the data.
      history: what the model sees of them, corrupted or not; paths lead there.
      noise: where the paths begin.
      tau, step: flow times and step sizes that were drawn.
      predict: the model.

    Returns:
      Targets, and flow times and step sizes, which a shortcut has of its own.
    """
    count = few.count(len(clean))
    if not count:
        return clean, tau, step
    row_key, step_key = jax.random.split(key)
    rows = jax.random.permutation(row_key, len(clean))[:count]
    past, data, start = history[rows], clean[rows], noise[rows]

    def path(tau: Times) -> Latents:
        return flow.noisy(past, start, tau)

    def found_of(noisy: Latents, tau: Times, step: Times) -> Latents:
        return predict(rows, noisy, past, tau, step)

    if few.objective == "shortcut":
        begin, whole = draw_whole_steps(step_key, tau[rows])
        tau, step = tau.at[rows].set(begin), step.at[rows].set(whole)
        found = shortcut_targets(path(begin), begin, whole, found_of)
    else:
        found = consistency_targets(path, data, tau[rows], few.ahead, found_of)
    found = jax.lax.stop_gradient(found + few.real * (data - found))
    return clean.at[rows].set(found), tau, step
