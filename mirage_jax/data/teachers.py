"""The styles that a model learns, one table: what makes the target of a frame.

A teacher takes consecutive frames and gives what the camera shows (`source`) and what
the model should make of it (`styled`). Styles of one frame have no history; effects
that need memory say how many earlier frames they look at.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mirage_jax.data import memory_effects
from mirage_jax.data.styles import PROCEDURAL_STYLES
from mirage_jax.data.varied_styles import VARIANTS, VARIED_STYLES, Look
from mirage_jax.errors import MirageError
from mirage_jax.styler import NEURAL_STYLES, StylerParams, styler_apply

Frames = Float[Array, "T H W 3"]
Apply = Callable[[Frames, Int[Array, " T"], PRNGKeyArray], tuple[Frames, Frames]]


@dataclass(frozen=True)
class Style:
    """One look, with the function that makes its training pairs.

    Attributes:
      name: the name in tables and file names.
      kind: "procedural" (a formula), "neural" (a trained style network), "memory"
        (an effect that cannot be made from one frame) or "varied" (a formula with
        several looks under one prompt, see `varied_styles`).
      history: how many earlier frames a styled frame depends on; 0 for one frame only.
      apply: `(frames, index, key) -> (source, styled)`. Frames are float32
        `[T, H, W, 3]` in [0, 1] and consecutive, `index` int32 `[T]` their absolute
        numbers, `key` the key of the clip. Random corruption of frame t depends on
        the key and `index[t]` alone. Can be jitted and vmapped.
      look: of a varied style the function of frames and variant, which `apply` draws
        from the key; None for the others.
    """

    name: str
    kind: Literal["procedural", "neural", "memory", "varied"]
    history: int
    apply: Apply
    look: Look | None = None


def _one_frame(look: Callable[[Frames], Frames]) -> Apply:
    """The contract of a style around a function of single pictures."""

    def apply(
        frames: Frames, index: Int[Array, " T"], key: PRNGKeyArray
    ) -> tuple[Frames, Frames]:
        del index, key
        return frames, look(frames)

    return apply


def _of_drawn_variant(look: Look) -> Apply:
    """The contract of a style around a look whose variant the clip's key chooses."""

    def apply(
        frames: Frames, index: Int[Array, " T"], key: PRNGKeyArray
    ) -> tuple[Frames, Frames]:
        del index
        return frames, look(frames, jax.random.randint(key, (), 0, VARIANTS))

    return apply


_PROCEDURAL = tuple(
    Style(name, "procedural", 0, _one_frame(look))
    for name, look in PROCEDURAL_STYLES.items()
)
_MEMORY = (
    Style("low_light", "memory", 0, memory_effects.low_light),
    Style(
        "light_trails",
        "memory",
        memory_effects.LIGHT_TRAILS_HISTORY,
        memory_effects.light_trails,
    ),
    Style(
        "signal_loss",
        "memory",
        memory_effects.SIGNAL_LOSS_HISTORY,
        memory_effects.signal_loss,
    ),
)
_VARIED = tuple(
    Style(name, "varied", 0, _of_drawn_variant(look), look)
    for name, look in VARIED_STYLES.items()
)


def all_styles(styler_params: StylerParams | None = None) -> tuple[Style, ...]:
    """All styles that have a teacher: those of one answer, then those with variants."""
    return comparable_styles(styler_params) + _VARIED


def comparable_styles(styler_params: StylerParams | None = None) -> tuple[Style, ...]:
    """The styles of one answer, in a fixed order: procedural, neural, memory.

    A picture in one of these can be compared with its teacher's.

    Without `styler_params` (the trained style network's) the neural styles are left
    out: 11 styles instead of 16.
    """
    if styler_params is None:
        return _PROCEDURAL + _MEMORY
    neural = tuple(
        Style(
            name,
            "neural",
            0,
            _one_frame(functools.partial(styler_apply, styler_params, style=number)),
        )
        for number, name in enumerate(NEURAL_STYLES)
    )
    return _PROCEDURAL + neural + _MEMORY


def find_style(name: str, styles: Iterable[Style]) -> Style:
    """The style of that name.

    Raises:
      MirageError: no style has this name; the message lists those that exist.
    """
    known = {style.name: style for style in styles}
    if name not in known:
        raise MirageError(f"unknown style {name!r}; choose one of {', '.join(known)}")
    return known[name]


def find_styles(names: Sequence[str], styles: Sequence[Style]) -> tuple[Style, ...]:
    """The styles of these names, in that order; all of them where none is named.

    Raises:
      MirageError: as `find_style`.
    """
    return tuple(find_style(name, styles) for name in names) or tuple(styles)


def variant_looks(style: Style, frames: Frames) -> Float[Array, "variants T H W 3"]:
    """What a style with variants makes of frames in each of them.

    Raises:
      MirageError: the style has no variants.
    """
    if style.look is None:
        raise MirageError(
            f"style {style.name!r} has no variants: choose one of "
            f"{', '.join(VARIED_STYLES)}"
        )
    return jnp.stack([style.look(frames, jnp.int32(n)) for n in range(VARIANTS)])


@functools.lru_cache(maxsize=32)
def _compiled(apply: Apply) -> Apply:
    return jax.jit(apply)


def apply_long(
    style: Style,
    frames: Float[np.ndarray, "T H W 3"],
    key: PRNGKeyArray,
    chunk: int = 32,
) -> tuple[Float[np.ndarray, "T H W 3"], Float[np.ndarray, "T H W 3"]]:
    """Source and styled frames of a clip of any length, `chunk` frames at a time.

    Every chunk sees `style.history` frames before it, so the result does not depend on
    the chunk size. Frame 0 of the clip has index 0. Frames are float32 in [0, 1] or
    uint8; both results are float32 on the host.
    """
    if chunk < 1:
        raise ValueError(f"a chunk has at least one frame, got {chunk=}")
    if len(frames) == 0:
        raise ValueError(f"a clip has at least one frame, got {frames.shape=}")
    apply = _compiled(style.apply)
    sources, styled = [], []
    for start in range(0, len(frames), chunk):
        first = max(start - style.history, 0)
        part = np.asarray(frames[first : start + chunk])
        if part.dtype == np.uint8:
            part = part.astype(np.float32) / 255.0
        index = np.arange(first, first + len(part), dtype=np.int32)
        chunk_source, chunk_styled = apply(jnp.asarray(part), jnp.asarray(index), key)
        sources.append(np.asarray(chunk_source)[start - first :])
        styled.append(np.asarray(chunk_styled)[start - first :])
    return np.concatenate(sources), np.concatenate(styled)
