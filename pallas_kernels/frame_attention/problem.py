"""The static sizes of one call of frame attention."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Problem:
    """What decides which kernel, and which configuration of it, is best.

    Attributes:
      batch: B, independent streams.
      groups: G, frames that query in one pass.
      queries: queries of one frame.
      frames: frame slots, S - 1.
      keys: keys of one frame slot.
      prompt: P, keys of slot 0; may be 0.
      heads: K.
      width: E, channels of a head.
      dtype: of q, k and v, by name.
      layers: length of the leading axis of k, v and slot_bias; 0 where they have none.
    """

    batch: int
    groups: int
    queries: int
    frames: int
    keys: int
    prompt: int
    heads: int
    width: int
    dtype: str = "bfloat16"
    layers: int = 0

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        dtype = sizes.pop("dtype")
        least = dict.fromkeys(sizes, 1) | {"prompt": 0, "layers": 0}
        wrong = {name: size for name, size in sizes.items() if size < least[name]}
        if wrong:
            raise ValueError(f"sizes must be positive: {wrong}")
        jnp.dtype(dtype)  # raises TypeError for a name that is no type

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of q, k and v, and slot_bias."""
        q = (self.batch, self.groups * self.queries, self.heads, self.width)
        kv = (self.batch, self.total_keys, self.heads, self.width)
        bias = (self.batch, self.groups, self.heads, self.frames + 1)
        lead = (self.layers,) if self.layers else ()
        return q, lead + kv, lead + bias

    @property
    def abstract(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """q, k, v and slot_bias without values."""
        q, kv, bias = self.shapes
        half = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.dtype(self.dtype))
        return half(q), half(kv), half(kv), jax.ShapeDtypeStruct(bias, jnp.float32)

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize

    @property
    def total_keys(self) -> int:
        """M, keys of all slots."""
        return self.prompt + self.frames * self.keys


def problem_of(q: Any, k: Any, v: Any, slot_bias: Any, prompt_tokens: int) -> Problem:
    """Sizes of the operands.

    Raises:
      ValueError: the shapes do not fit together.
    """
    if q.ndim != 4 or k.ndim not in (4, 5) or slot_bias.ndim != k.ndim:
        raise ValueError(f"wrong ranks: {q.shape=}, {k.shape=}, {slot_bias.shape=}")
    layers, kv = (k.shape[0], k.shape[1:]) if k.ndim == 5 else (0, k.shape)
    if layers and slot_bias.shape[0] != layers:
        raise ValueError(f"{k.shape=} and {slot_bias.shape=} differ in layers")
    bias = slot_bias.shape[-4:]
    groups, slots = bias[1], bias[3]
    frame_keys = kv[1] - prompt_tokens
    if slots < 2 or frame_keys % (slots - 1) or frame_keys <= 0:
        raise ValueError(f"{k.shape=} does not hold {prompt_tokens=} and {slots=}")
    if q.shape[1] % groups:
        raise ValueError(f"{q.shape=} does not split into groups of {slot_bias.shape=}")
    if k.shape != v.shape or q.shape[::2] != kv[::2] or q.shape[3] != kv[3]:
        raise ValueError(f"{q.shape=}, {k.shape=} and {v.shape=} do not fit")
    if bias[::2] != q.shape[::2]:
        raise ValueError(f"{q.shape=} and {slot_bias.shape=} do not fit")
    return Problem(
        batch=q.shape[0],
        groups=groups,
        queries=q.shape[1] // groups,
        frames=slots - 1,
        keys=frame_keys // (slots - 1),
        prompt=prompt_tokens,
        heads=q.shape[2],
        width=q.shape[3],
        dtype=jnp.dtype(q.dtype).name,
        layers=layers,
    )
