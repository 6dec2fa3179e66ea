"""The dispatcher of the commit."""

from collections.abc import Callable

from jaxtyping import Array, Float, Int

from pallas_kernels.qk_norm_rope_commit import reference, triton
from pallas_kernels.qk_norm_rope_commit.problem import OP, problem_of
from pallas_kernels.trial import Trials

# The definition is what XLA fuses, so "xla" is the reference itself.
_BACKENDS: dict[str, Callable[..., tuple[Array, Array, Array]]] = {
    "xla": reference.qk_norm_rope_commit,
    "triton": triton.qk_norm_rope_commit,
}
TRIALS = Trials(OP, "the commit")


def backends() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_BACKENDS)


def last_backend() -> str | None:
    """The backend that the most recently traced call used, for reports and tests."""
    return TRIALS.last


def qk_norm_rope_commit(
    qkv: Float[Array, "B Q 3 K E"],
    q_scale: Float[Array, "L E"],
    k_scale: Float[Array, "L E"],
    cos: Float[Array, "Q E/2"],
    sin: Float[Array, "Q E/2"],
    k_slots: Float[Array, "L B M K E"],
    v_slots: Float[Array, "L B M K E"],
    layer: Int[Array, ""],
    starts: Int[Array, " G"],
    *,
    backend: str | None = None,
) -> tuple[
    Float[Array, "B Q K E"], Float[Array, "L B M K E"], Float[Array, "L B M K E"]
]:
    """Normalises and rotates q and k of a pass, and writes k and v into the cache.

    RMS norm of each head with a learnt scale (epsilon 1e-6), then rotary embedding (Su
    et al. 2021) that pairs channel c with c + E / 2; both in float32.

    Args:
      qkv: the fused projection of G frames of N tokens, Q = G * N.
      q_scale, k_scale: scales of the norms, of all layers.
      cos, sin: of each token's angles, float32.
      k_slots, v_slots: the cache of all layers. Give them up to the caller's program
        (donate them): the results are the same arrays, written in place.
      layer: which one of the L.
      starts: first key of each frame's ring slot.
      backend: a name of `backends()`; None takes the fastest that was measured on
        this device (see `pallas_kernels.choice`), without a measurement XLA.

    Returns:
      q, ready for attention, and the cache with k and v of the G frames in it.

    Raises:
      ValueError: the shapes do not fit together, or the backend is unknown.
      NotImplementedError: the backend cannot do this here.
    """
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{backend=} is none of {backends()}")
    if qkv.ndim != 5 or qkv.shape[2] != 3 or qkv.shape[4] % 2:
        raise ValueError(f"{qkv.shape=} must be [B, Q, 3, K, E] with an even E")
    batch, queries, _, heads, width = qkv.shape
    if starts.ndim != 1 or not starts.shape[0] or queries % starts.shape[0]:
        raise ValueError(f"{qkv.shape=} does not split into {starts.shape=} frames")
    if not cos.shape == sin.shape == (queries, width // 2):
        raise ValueError(f"{cos.shape=} and {sin.shape=} do not fit {qkv.shape=}")
    kept = (k_slots.shape[1], *k_slots.shape[3:]) if k_slots.ndim == 5 else ()
    if k_slots.shape != v_slots.shape or kept != (batch, heads, width):
        raise ValueError(
            f"{k_slots.shape=} and {v_slots.shape=} do not fit {qkv.shape=}"
        )
    scales = (k_slots.shape[0], width)
    if not q_scale.shape == k_scale.shape == scales:
        raise ValueError(f"{q_scale.shape=} and {k_scale.shape=} must be {scales}")
    if queries // starts.shape[0] > k_slots.shape[2]:
        raise ValueError(f"{k_slots.shape=} is too short for a frame of {qkv.shape=}")
    operands = (qkv, q_scale, k_scale, cos, sin, k_slots, v_slots, layer, starts)
    problem = problem_of(qkv, k_slots, starts)
    run = _BACKENDS.__getitem__
    return run(TRIALS.pick(backend, problem, run, *operands))(*operands)
