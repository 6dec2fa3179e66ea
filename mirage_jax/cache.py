"""The frame cache: a fixed ring of slots that holds K and V of every layer.

One array for K and one for V, keys of all slots side by side:

    | prompt: P keys | anchor: N keys | ring slot 0: N keys | ... | ring slot R |

The ring has R + 1 slots: R past frames and the current one, which writes its K and V
first and then attends to everything in place; nothing is ever moved or joined. What
stays in the slot when the frame is done is the commit. The position of a slot in the
array means nothing: the model only sees each slot's age through the slot bias.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.config import DenoiserConfig
from pallas_kernels.frame_attention import EMPTY_SLOT

EMPTY = -1  # age of a slot that holds nothing


@flax.struct.dataclass
class FrameCache:
    """K and V of all slots.

    Attributes:
      k, v: keys (normalised and rotated) and values, [L, B, P + (R + 2) * N, K, E].
      age: frames since the slot was written, per stream; `EMPTY` for none. Column 0
        is the anchor, the rest the ring.
      cursor: ring slot of the current frame, shared by all streams.
    """

    k: Float[Array, "L B M K E"]
    v: Float[Array, "L B M K E"]
    age: Int[Array, "B R+2"]
    cursor: Int[Array, ""]

    def prompt(self, config: DenoiserConfig) -> tuple[Array, Array]:
        """K and V of the prompt slot, each [L, B, P, K, E]."""
        first = config.prompt_tokens
        return self.k[:, :, :first], self.v[:, :, :first]


def empty_cache(
    config: DenoiserConfig, batch: int, tokens: int, dtype: jnp.dtype
) -> FrameCache:
    """A cache without any frame and with zero prompt keys."""
    keys = config.prompt_tokens + (config.ring + 2) * tokens
    shape = (config.layers, batch, keys, config.heads, config.head_width)
    return FrameCache(
        k=jnp.zeros(shape, dtype),
        v=jnp.zeros(shape, dtype),
        age=jnp.full((batch, config.ring + 2), EMPTY, jnp.int32),
        cursor=jnp.zeros((), jnp.int32),
    )


def frame_tokens(cache: FrameCache, config: DenoiserConfig) -> int:
    """N, from the shape of the cache."""
    return (cache.k.shape[2] - config.prompt_tokens) // (config.ring + 2)


def slot_start(
    slot: Int[Array, "*n"] | int, config: DenoiserConfig, tokens: int
) -> Int[Array, "*n"]:
    """First key of ring slots; slot -1 is the anchor."""
    return jnp.asarray(config.prompt_tokens + (slot + 1) * tokens, jnp.int32)


def advance(cache: FrameCache) -> FrameCache:
    """Starts a frame: every slot grows older, the oldest becomes the current one."""
    ring = cache.age.shape[1] - 1
    cursor = (cache.cursor + 1) % ring
    age = jnp.where(cache.age == EMPTY, EMPTY, cache.age + 1)
    current = jnp.arange(ring + 1) == cursor + 1
    age = jnp.where(current[None], 0, age)
    return dataclasses.replace(cache, age=age, cursor=cursor)


def forget(cache: FrameCache, streams: Bool[Array, " B"]) -> FrameCache:
    """Empties anchor and ring of the chosen streams; the prompt stays.

    K and V lie where they were, behind a bias of -inf, through which a NaN would shine.
    """
    return dataclasses.replace(cache, age=jnp.where(streams[:, None], EMPTY, cache.age))


def turned(cache: FrameCache, config: DenoiserConfig) -> FrameCache:
    """The same cache with its ring turned until the cursor is at slot 0.

    So caches of other moments fit side by side: slots have ages and no order.
    """
    tokens = frame_tokens(cache, config)

    def turn(x: Array, axis: int, start: int, slot: int) -> Array:
        head, ring = jnp.split(x, [start], axis)
        return jnp.concatenate([head, jnp.roll(ring, -slot * cache.cursor, axis)], axis)

    start = config.prompt_tokens + tokens
    return FrameCache(
        k=turn(cache.k, 2, start, tokens),
        v=turn(cache.v, 2, start, tokens),
        age=turn(cache.age, 1, 1, 1),
        cursor=jnp.zeros((), jnp.int32),
    )


def age_bias(
    bias: Float[Array, "L K R+3"], age: Int[Array, "B R+2"]
) -> Float[Array, "L B 1 K R+3"]:
    """Slot bias of the current frame: learned numbers looked up by each slot's age.

    `bias` columns: prompt, anchor, then ages 0..R.
    """
    by_age = bias.shape[-1] - 2  # ages that have a number
    # One look-up for all slots: joined parts would be one more kernel a layer.
    first = jnp.broadcast_to(jnp.arange(2), (len(age), 2))  # prompt, anchor
    columns = jnp.concatenate([first, jnp.clip(age[:, 1:], 0) + 2], axis=1)
    # The anchor is the ring's frame 0 until that leaves the ring; it is seen once.
    anchored = age[:, :1] >= by_age
    prompted = jnp.ones_like(anchored)
    seen = jnp.concatenate([prompted, anchored, age[:, 1:] != EMPTY], axis=1)
    found = jnp.take(bias, columns, axis=-1)  # [L, K, B, S]
    found = jnp.where(seen[None, None], found, EMPTY_SLOT)
    return found.transpose(0, 2, 1, 3)[:, :, None]


def previous_age(age: Int[Array, "B R+2"]) -> Int[Array, "B R+2"]:
    """Ages as the frame before the current one sees them: the current is not there."""
    return jnp.where(age <= 0, EMPTY, age - 1)


def keep_anchor(
    cache: FrameCache,
    config: DenoiserConfig,
    streams: Bool[Array, " B"],
    slot: Int[Array, ""],
) -> FrameCache:
    """Copies a ring slot's K and V into the anchor slot of the chosen streams."""
    tokens = frame_tokens(cache, config)
    ring = slot_start(slot, config, tokens)
    anchor = slot_start(-1, config, tokens)
    chosen = streams[None, :, None, None, None]

    def copy(x):
        new = jax.lax.dynamic_slice_in_dim(x, ring, tokens, axis=2)
        old = jax.lax.dynamic_slice_in_dim(x, anchor, tokens, axis=2)
        return jax.lax.dynamic_update_slice_in_dim(
            x, jnp.where(chosen, new, old), anchor, axis=2
        )

    is_anchor = (jnp.arange(cache.age.shape[1]) == 0)[None]
    since = jnp.take(cache.age, slot + 1, axis=1)[:, None]
    age = jnp.where(streams[:, None] & is_anchor, since, cache.age)
    return dataclasses.replace(cache, k=copy(cache.k), v=copy(cache.v), age=age)
