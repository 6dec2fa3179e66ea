"""The dispatcher of frame attention."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.frame_attention import cudnn, mosaic, reference, triton, xla
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.problem import problem_of
from pallas_kernels.trial import Trials

EMPTY_SLOT = -jnp.inf  # bias of a slot that holds nothing

_BACKENDS: dict[str, Callable[..., Array]] = {
    "reference": reference.attend,
    "xla": xla.attend,
    "cudnn": cudnn.attend,
    "triton": triton.attend,
    "mosaic": mosaic.attend,
}
# The others get a slice of the layer, which may be a copy.
_READS_LAYERS = {"triton", "mosaic"}
TRIALS = Trials(OP, "frame attention")


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return TRIALS.last


def _run(
    name: str,
    q: Array,
    k: Array,
    v: Array,
    slot_bias: Array,
    layer: Any,
    *,
    prompt_tokens: int,
) -> Array:
    """One backend, by name."""
    if layer is None:
        return _BACKENDS[name](q, k, v, slot_bias, prompt_tokens=prompt_tokens)
    if name in _READS_LAYERS:
        return _BACKENDS[name](
            q, k, v, slot_bias, prompt_tokens=prompt_tokens, layer=layer
        )
    k, v, slot_bias = (
        jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False)
        for x in (k, v, slot_bias)
    )
    return _BACKENDS[name](q, k, v, slot_bias, prompt_tokens=prompt_tokens)


def frame_attention(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    v: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    slot_bias: Float[Array, "B G K S"] | Float[Array, "L B G K S"],
    *,
    prompt_tokens: int,
    layer: Int[Array, ""] | int | None = None,
    backend: str | None = None,
) -> Float[Array, "B Q K E"]:
    """Attends from the G frames of one pass to the prompt slot and S-1 frame slots.

    Keys lie in memory as `prompt_tokens` keys of slot 0, then S-1 slots of equal
    size. Queries lie as G frames of equal size. The bias of a (frame, head, slot) is
    added to the logits and is the only temporal position and the only mask:
    `EMPTY_SLOT` (-inf) hides a slot. Logits are scaled by E ** -0.5; the softmax runs
    in float32. Every frame must see at least one slot.

    Args:
      q: queries, after normalisation and rotation.
      k, v: keys and values of all slots, read in place; of all layers where `layer`
        is given.
      slot_bias: float32 bias by pass frame, head and slot; of all layers too.
      prompt_tokens: P, keys of slot 0.
      layer: index of the layer in k, v and slot_bias. Our kernels read it where it
        lies; other backends slice it, which may copy a layer's whole cache.
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `pallas_kernels.choice`), without a measurement Triton on an
        NVIDIA GPU from Ampere on, cuDNN on an older one, else XLA. A backend that
        does not compile here is passed over with one warning.

    Raises:
      ValueError: the shapes do not fit together, or the backend is unknown.
      NotImplementedError: the backend that was asked for by name cannot do this.
    """
    problem = problem_of(q, k, v, slot_bias, prompt_tokens)
    if (layer is None) != (problem.layers == 0):
        raise ValueError(f"{k.shape=} and {layer=} do not fit")
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")

    def run(name: str) -> Callable[..., Array]:
        return functools.partial(_run, name, prompt_tokens=prompt_tokens)

    backend = TRIALS.pick(backend, problem, run, q, k, v, slot_bias, layer)
    return run(backend)(q, k, v, slot_bias, layer)
