"""Attention of all frames of a training clip at once, each to its own past.

A frame sees the prompt, itself, the `ring` frames before it and, in an anchored clip,
frame 0: of the 256 pairs of 16 frames a ring of 7 shows 100. Our Triton kernel takes
all frames in one call and computes the pairs that are seen, forward and backward. The
other backends would compute every pair to hide most of them. So for them a few
neighbours at a time attend to the frames that any of them can see, which are 144 pairs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pallas_kernels.frame_attention import EMPTY_SLOT, frame_attention

# Neighbours whose pasts are read together. Fewer would compute fewer pairs that nobody
# sees, copy more keys, and be more shapes to compile.
NEIGHBOURS = 4

SKIPS = "triton"  # the backend that computes no pair that nobody sees


def clip_slot_bias(
    bias: Float[Array, "K R+3"], frames: int, anchored: Bool[Array, " B"]
) -> Float[Array, "B T K T+1"]:
    """Block-causal slot bias of a training clip; frame 0 may stand for the anchor."""
    ring = bias.shape[1] - 3
    age = jnp.arange(frames)[:, None] - jnp.arange(frames)[None]  # [query, key]
    by_age = bias[:, 2:][:, jnp.clip(age, 0, ring)]  # [K, T, T]
    is_anchor = (jnp.arange(frames)[None] == 0) & (age > 0)
    is_anchor = anchored[:, None, None] & is_anchor[None]  # [B, T, T]
    seen = ((age >= 0) & (age <= ring))[None] | is_anchor
    anchor = bias[:, 1].reshape(1, -1, 1, 1)
    slots = jnp.where(is_anchor[:, None], anchor, by_age[None])
    slots = jnp.where(seen[:, None], slots, EMPTY_SLOT)
    prompt = jnp.broadcast_to(bias[:, :1].reshape(1, -1, 1, 1), (*slots.shape[:3], 1))
    return jnp.concatenate([prompt, slots], axis=-1).transpose(0, 2, 1, 3)


def attend_clip(
    q: Float[Array, "B T*N K E"],
    k: Float[Array, "B T*N K E"],
    v: Float[Array, "B T*N K E"],
    prompt: tuple[Float[Array, "B P K E"], Float[Array, "B P K E"]],
    slot_bias: Float[Array, "B T K T+1"],
    ring: int,
    *,
    neighbours: int | None = None,
    backend: str | None = None,
) -> Float[Array, "B T*N K E"]:
    """What every frame of a clip reads from its past.

    Args:
      q, k, v: of all frames, one behind the other.
      prompt: its k and v.
      slot_bias: that of `clip_slot_bias`.
      ring: frames before its own that a frame sees.
      neighbours: frames whose pasts are read together; None: all for the backend that
        skips what nobody sees, else `NEIGHBOURS`.
      backend: of `frame_attention`; None takes that one for half precision where it
        runs.

    Raises:
      NotImplementedError: the backend that was asked for by name cannot do this.
    """
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    if backend == SKIPS or (backend is None and neighbours is None and half):
        try:
            return frame_attention(
                q,
                jnp.concatenate([prompt[0], k], axis=1),
                jnp.concatenate([prompt[1], v], axis=1),
                slot_bias,
                prompt_tokens=prompt[0].shape[1],
                backend=SKIPS,
            )
        except NotImplementedError:
            if backend == SKIPS:
                raise
    frames = slot_bias.shape[1]
    tokens, neighbours = q.shape[1] // frames, neighbours or NEIGHBOURS

    def read(start: int) -> Array:
        end = min(start + neighbours, frames)
        # Frame 0 is the anchor of all, and so it stands before the others' past.
        past = max(start - ring, 1)

        def seen(prompt_x: Array, x: Array) -> Array:
            parts = prompt_x, x[:, :tokens], x[:, past * tokens : end * tokens]
            return jnp.concatenate(parts, axis=1)

        bias = slot_bias[:, start:end]
        return frame_attention(
            q[:, start * tokens : end * tokens],
            seen(prompt[0], k),
            seen(prompt[1], v),
            jnp.concatenate([bias[..., :2], bias[..., past + 1 : end + 1]], axis=-1),
            prompt_tokens=prompt[0].shape[1],
            backend=backend,
        )

    starts = range(0, frames, neighbours)
    return jnp.concatenate([read(start) for start in starts], axis=1)
