"""The named shapes of frame attention: for tests, for tuning, for the benchmark."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.frame_attention.problem import Problem


@dataclasses.dataclass(frozen=True)
class Spec:
    """A problem, and which of its slots are empty.

    Attributes:
      problem: all sizes.
      empty: slots that hold nothing (0 is the prompt).
      hidden: (group, slot) that one group of the pass does not see.
    """

    problem: Problem
    empty: tuple[int, ...] = ()
    hidden: tuple[tuple[int, int], ...] = ()

    def slot_bias(self, rng: np.random.Generator) -> np.ndarray:
        """Bias, float32, about as large as a trained one."""
        bias = rng.normal(size=self.problem.shapes[2]).astype(np.float32)
        bias[..., list(self.empty)] = -np.inf
        for group, slot in self.hidden:
            bias[..., group, :, slot] = -np.inf
        return bias

    def operands(self, seed: int) -> tuple[jax.Array, ...]:
        """Random q, k, v and slot_bias, drawn on the device; normalised keys."""
        *keys, last = jax.random.split(jax.random.key(seed), 4)
        q, kv, _ = self.problem.shapes
        dtype = jnp.dtype(self.problem.dtype)
        draw = [
            jax.random.normal(key, shape, dtype)
            for key, shape in zip(keys, (q, kv, kv), strict=True)
        ]
        rng = np.random.default_rng(np.asarray(jax.random.key_data(last)))
        return *draw, jnp.asarray(self.slot_bias(rng))

    @property
    def flops(self) -> float:
        """Of the two matrix products over the keys that are seen."""
        p = self.problem
        return 4.0 * p.batch * p.queries * self._seen_keys * p.heads * p.width

    @property
    def bytes_moved(self) -> float:
        """Each query, output and seen key and value once."""
        p = self.problem
        ends = 2 * p.groups * p.queries
        kept = 2 * (p.prompt * (0 not in self.empty) + p.keys * self._kept_frames)
        return float(p.batch * p.heads * p.width * p.itemsize * (ends + kept))

    @property
    def _kept_frames(self) -> int:
        return self.problem.frames - len([slot for slot in self.empty if slot])

    @property
    def _seen_keys(self) -> int:
        """Keys seen by a query of each group, summed over the groups."""
        p, total = self.problem, 0
        for group in range(p.groups):
            unseen = {*self.empty, *(s for g, s in self.hidden if g == group)}
            total += p.prompt * (0 not in unseen)
            total += p.keys * (p.frames - len(unseen - {0}))
        return total


def _causal(frames: int) -> tuple[tuple[int, int], ...]:
    """What a training clip hides: frame t does not see the frames after it."""
    return tuple((t, s + 1) for t in range(frames) for s in range(t + 1, frames))


# The bars: the 880M model's 12 heads of 128; 7 past frames and the current one.
BARS = {
    "lsd_256": Spec(Problem(1, 1, 256, 8, 256, 32, 12, 128)),
    "lsd_1024": Spec(Problem(1, 1, 1024, 8, 1024, 32, 12, 128)),
    # The lagged commit carries the frame before, which does not see the current one.
    "lsd_256_lagged": Spec(Problem(1, 2, 256, 8, 256, 32, 12, 128), hidden=((0, 8),)),
}
# The shipped model, whose anchor slot is mostly empty: streams, files, training.
DEFAULT_MODEL = {
    "default_256": Spec(Problem(1, 1, 256, 9, 256, 8, 6, 64), empty=(1,)),
    "default_64": Spec(Problem(1, 1, 64, 9, 64, 8, 6, 64), empty=(1,)),
    "default_256_lagged": Spec(
        Problem(1, 2, 256, 9, 256, 8, 6, 64), empty=(1,), hidden=((0, 9),)
    ),
    "default_256_batch_8": Spec(Problem(8, 1, 256, 9, 256, 8, 6, 64), empty=(1,)),
    "default_clip": Spec(Problem(16, 8, 64, 8, 64, 8, 6, 64), hidden=_causal(8)),
}
# Sizes that fill no block, other types and heads, rings at their start: for a GPU.
UNEVEN = {
    "tokens_49": Spec(Problem(3, 1, 49, 9, 49, 7, 6, 64), empty=(1, 5)),
    "tokens_144": Spec(
        Problem(1, 2, 144, 9, 144, 8, 12, 96), empty=(1,), hidden=((0, 9),)
    ),
    "tokens_1024_start": Spec(
        Problem(1, 1, 1024, 9, 1024, 32, 12, 128), empty=(1, 2, 3, 4, 6, 7, 8, 9)
    ),
    "float32_128": Spec(Problem(1, 1, 256, 8, 256, 32, 12, 128, "float32")),
    "float16_128": Spec(Problem(1, 1, 256, 8, 256, 32, 12, 128, "float16")),
    "widest": Spec(Problem(1, 1, 256, 8, 256, 32, 4, 256), empty=(2,)),
    "layers_of_30": Spec(
        Problem(1, 1, 256, 9, 256, 32, 12, 128, layers=30), empty=(1,)
    ),
}
# Everything that could go wrong, small enough for the interpreter on two CPU cores.
SMALL = {
    "plain": Spec(Problem(1, 1, 16, 3, 16, 16, 2, 16, "float32")),
    "odd_tokens": Spec(Problem(3, 1, 49, 3, 49, 7, 2, 64, "float32"), empty=(2,)),
    "wide": Spec(Problem(1, 1, 17, 2, 33, 5, 1, 128, "float32")),
    "head_96": Spec(Problem(1, 2, 20, 4, 20, 8, 2, 96, "float32"), hidden=((0, 4),)),
    "head_12": Spec(Problem(2, 2, 6, 3, 6, 5, 3, 12, "float32"), empty=(3,)),
    "no_prompt": Spec(Problem(1, 1, 16, 4, 16, 0, 2, 16, "float32"), empty=(1,)),
    "empty_prompt": Spec(Problem(1, 1, 16, 4, 16, 3, 2, 16, "float32"), empty=(0, 4)),
    "one_slot_left": Spec(
        Problem(1, 1, 16, 5, 16, 4, 1, 16, "float32"), empty=(0, 1, 2, 4, 5)
    ),
    "clip": Spec(Problem(1, 8, 9, 8, 9, 4, 1, 32, "float32"), hidden=_causal(8)),
    "layers": Spec(Problem(2, 1, 16, 3, 16, 4, 2, 16, "float32", layers=3), empty=(1,)),
    "half": Spec(Problem(1, 1, 32, 3, 32, 8, 2, 64), empty=(2,)),
}
SPECS = BARS | DEFAULT_MODEL | UNEVEN | SMALL
