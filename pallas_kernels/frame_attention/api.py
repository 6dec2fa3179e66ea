"""The dispatcher of frame attention."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.frame_attention import cudnn, reference, xla

EMPTY_SLOT = -jnp.inf  # bias of a slot that holds nothing

_BACKENDS: dict[str, Callable[..., Array]] = {
    "reference": reference.attend,
    "xla": xla.attend,
    "cudnn": cudnn.attend,
}
_last_backend: str | None = None


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return _last_backend


def frame_attention(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"],
    v: Float[Array, "B M K E"],
    slot_bias: Float[Array, "B G K S"],
    *,
    prompt_tokens: int,
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
      k, v: keys and values of all slots, read in place.
      slot_bias: float32 bias by pass frame, head and slot.
      prompt_tokens: P, keys of slot 0.
      backend: a name of `backends()`; None takes the best that the device has:
        cuDNN for half precision on an NVIDIA GPU, else XLA.

    Raises:
      ValueError: the shapes do not fit together, or the backend is unknown.
      NotImplementedError: the backend that was asked for by name cannot do this.
    """
    global _last_backend
    slots = slot_bias.shape[-1]
    frame_keys = k.shape[1] - prompt_tokens
    if slots < 2 or frame_keys % (slots - 1) or frame_keys <= 0:
        raise ValueError(f"{k.shape=} does not hold {prompt_tokens=} and {slots=}")
    if q.shape[1] % slot_bias.shape[1]:
        raise ValueError(f"{q.shape=} does not split into groups of {slot_bias.shape=}")
    if k.shape != v.shape or q.shape[::2] != k.shape[::2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"{q.shape=}, {k.shape=} and {v.shape=} do not fit")
    if slot_bias.shape[::2] != q.shape[::2]:
        raise ValueError(f"{q.shape=} and {slot_bias.shape=} do not fit")
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    automatic = ("cudnn", "xla") if jax.default_backend() == "gpu" else ("xla",)
    for name in (backend,) if backend else automatic:
        try:
            out = _BACKENDS[name](q, k, v, slot_bias, prompt_tokens=prompt_tokens)
        except NotImplementedError:
            if backend:
                raise
            continue
        _last_backend = name
        return out
    raise NotImplementedError(f"no backend for {q.shape=} {q.dtype=}")
