"""The dispatcher of frame attention."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels import device
from pallas_kernels.frame_attention import choice, cudnn, reference, triton, xla
from pallas_kernels.frame_attention.problem import Problem, problem_of

EMPTY_SLOT = -jnp.inf  # bias of a slot that holds nothing

_BACKENDS: dict[str, Callable[..., Array]] = {
    "reference": reference.attend,
    "xla": xla.attend,
    "cudnn": cudnn.attend,
    "triton": triton.attend,
}
_READS_LAYERS = {"triton"}  # the others get a slice of the layer, which may be a copy
_last_backend: str | None = None
_warned: set[str] = set()


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return _last_backend


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
    k, v = (jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False) for x in (k, v))
    return _BACKENDS[name](q, k, v, slot_bias, prompt_tokens=prompt_tokens)


@functools.cache
def _failure(name: str, problem: Problem) -> str | None:
    """Why a backend does not compile here for these sizes; None where it does.

    Inside a program a failure could not be caught any more: it comes when the whole
    program is compiled, long after this function's caller has been traced.
    """
    layer = jax.ShapeDtypeStruct((), jnp.int32) if problem.layers else None
    call = functools.partial(_run, name, prompt_tokens=problem.prompt)
    try:
        jax.jit(call).lower(*problem.abstract, layer).compile()
    except Exception as error:  # whatever it is, a live stream must go on without it
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return None


def _usable(name: str, problem: Problem) -> bool:
    """Whether a backend that was not asked for by name can be trusted here."""
    if name == "xla":
        return True  # what everything falls back to
    failure = _failure(name, problem)
    if failure is None:
        return True
    unsupported = failure.startswith(NotImplementedError.__name__)
    if not unsupported and name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"frame attention goes on without {name!r}, which fails for {problem}: "
            f"{failure}",
            RuntimeWarning,
            stacklevel=3,
        )
    return False


def frame_attention(
    q: Float[Array, "B Q K E"],
    k: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    v: Float[Array, "B M K E"] | Float[Array, "L B M K E"],
    slot_bias: Float[Array, "B G K S"],
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
      slot_bias: float32 bias by pass frame, head and slot.
      prompt_tokens: P, keys of slot 0.
      layer: index of the layer in k and v. The Triton kernel reads it where it lies;
        other backends slice it, which may copy a layer's whole cache.
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `choice`), without a measurement cuDNN for half precision on
        an NVIDIA GPU, else XLA. A backend that does not compile here is passed over
        with one warning.

    Raises:
      ValueError: the shapes do not fit together, or the backend is unknown.
      NotImplementedError: the backend that was asked for by name cannot do this.
    """
    global _last_backend
    problem = problem_of(q, k, v, slot_bias, prompt_tokens)
    if (layer is None) != (problem.layers == 0):
        raise ValueError(f"{k.shape=} and {layer=} do not fit")
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    if backend is None:
        order = choice.backend_order(problem, device.present())
        backend = next(name for name in order if _usable(name, problem))
    out = _run(backend, q, k, v, slot_bias, layer, prompt_tokens=prompt_tokens)
    _last_backend = backend
    return out
