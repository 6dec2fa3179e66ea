"""How long and how fast to train: settings, learning rate, optimiser."""

import dataclasses
import math
from typing import Any

import jax
import optax

from mirage_jax.errors import MirageError

MUON_UPDATE = 0.4
"""Root mean square of Muon's updates, in learning rates."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train. `minutes` > 0 replaces `steps`.

    By steps a resumed run repeats an unbroken one exactly. By minutes the learning
    rate follows the clock (time spent in earlier runs counts, compilation does not),
    so a resumed run ends at the same learning rate but is not the same run.

    Warm-up is over `warmup_steps`; then the rate is constant until the fraction
    `decay_start` of the run and falls to `final_fraction` of itself, on a line or on
    a cosine. `ema` is the decay of the running average of the weights. `optimiser` is
    "adamw", or "muon" for the matrices inside of a network and AdamW for the rest.
    """

    steps: int = 1000
    minutes: float = 0.0
    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_start: float = 0.0
    decay: str = "cosine"
    final_fraction: float = 0.02
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.999
    log_every: int = 50
    picture_every: int = 1000
    checkpoint_every: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes < 0 or (self.minutes == 0 and self.steps < 1):
            raise MirageError(
                f"nothing to train: steps={self.steps}, minutes={self.minutes}; "
                "give at least 1 step or more than 0 minutes"
            )
        if self.optimiser not in ("adamw", "muon"):
            raise MirageError(f"optimiser={self.optimiser!r}: choose 'adamw' or 'muon'")
        if self.decay not in ("linear", "cosine"):
            raise MirageError(f"decay={self.decay!r}: choose 'linear' or 'cosine'")
        for name in ("decay_start", "final_fraction", "ema"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise MirageError(f"{name}={value} must lie in [0, 1]")
        for name in ("learning_rate", "clip_norm", "log_every"):
            value = getattr(self, name)
            if not value > 0:
                raise MirageError(f"{name}={value} must be above 0")


def learning_rate_at(config: TrainConfig, step: int, progress: float) -> float:
    """Rate of step `step` (from 0) when the fraction `progress` of the run is done.

    Plain Python: the schedule must not put work on the device.
    """
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    span = max(1.0 - config.decay_start, 1e-9)
    x = min(max((progress - config.decay_start) / span, 0.0), 1.0)
    fall = x if config.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * x)
    return config.learning_rate * warmup * (1.0 - (1.0 - config.final_fraction) * fall)


def _hidden_matrices(params: Any) -> Any:
    """Which axes of a leaf Muon takes as a matrix; None leaves it to AdamW.

    Matrices are the kernels of a transformer's blocks, [L, in, out], and those of
    convolutions, [h, w, in, out]. Dense layers outside of blocks stand at the ends.
    """

    def matrix(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if path[-1] != jax.tree_util.DictKey("kernel") or leaf.ndim not in (3, 4):
            return None
        inputs = (0, 1, 2) if leaf.ndim == 4 else 1
        return optax.contrib.MuonDimensionNumbers(inputs, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(matrix, params)


def optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """The chosen one at learning rate 1; the host gives the rate to each step."""
    if config.optimiser == "muon":
        descend = optax.contrib.muon(
            learning_rate=1.0,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_hidden_matrices,
            # 0.2 would make updates as large as AdamW's (Liu et al. 2025).
            consistent_rms=MUON_UPDATE,
        )
    else:
        descend = optax.adamw(
            1.0, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), descend)
