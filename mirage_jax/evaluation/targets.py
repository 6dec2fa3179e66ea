"""Source and target frames of a style: what the model gets and what it should give."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from mirage_jax.data.teachers import Style
from mirage_jax.pixels import to_bytes, to_floats

# Frames that a one-frame teacher works on at a time; bounds its memory.
_CHUNK = 8
# A run of lost frames may cross the seam of a loop, so an effect with memory sees some
# frames more than its own history.
_SEAM = 8

Teach = Callable[[Array, Array, Array], tuple[Array, Array]]


def make_targets(style: Style, context: int = 0) -> Teach:
    """A function (frames, index, key) -> (source, target), all pictures uint8.

    Args:
      style: the teacher.
      context: leading frames that are only looked at and left out of the result.

    Returns:
      A function of frames [context + T, H, W, 3], their numbers [context + T] and the
      key of the clip; ready to be compiled. Both results are [T, H, W, 3].
    """

    def targets(
        frames: UInt8[Array, "n H W 3"], index: Int[Array, " n"], key: Array
    ) -> tuple[UInt8[Array, "T H W 3"], UInt8[Array, "T H W 3"]]:
        def apply(part: tuple[Array, Array]) -> tuple[Array, Array]:
            pictures, numbers = part
            source, styled = style.apply(to_floats(pictures), numbers, key)
            return to_bytes(source), to_bytes(styled)

        # Effects with memory see the whole clip: nothing to get wrong at seams.
        whole = style.history or len(frames) % _CHUNK
        chunk = len(frames) if whole else _CHUNK
        parts = jax.tree.map(
            lambda x: x.reshape(-1, chunk, *x.shape[1:]), (frames, index)
        )
        results = jax.lax.map(apply, parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[context:], results)

    return targets


def loop_context(style: Style) -> int:
    """Frames before a loop that its targets need, once the loop has come round."""
    return style.history + _SEAM if style.history else 0


def loop_index(length: int, context: int) -> Int[Array, " n"]:
    """Numbers of a loop's frames, the same in every round, after those of its end.

    The same numbers mean the same random corruption in every round, so that the first
    round and a later one show the model the very same frames.
    """
    moments = jnp.arange(-context, length, dtype=jnp.int32)
    return length + moments % length
