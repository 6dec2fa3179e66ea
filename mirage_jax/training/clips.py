"""What a training step draws: clips of all styles, targets, which sources are lost.

Everything is drawn on the device: clips and camera paths from the frame store, and the
teachers' pictures of them.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.data.pairs import PairStore, sample_pairs
from mirage_jax.data.store import FrameStore, sample_clips, sample_paths
from mirage_jax.data.teachers import Style, all_styles, find_styles
from mirage_jax.denoiser import Params
from mirage_jax.errors import MirageError

INDEX_RANGE = 4096  # a training clip starts at a frame number below this


@flax.struct.dataclass
class DenoiserData:
    """What the loss reads; None where a part is not there.

    Attributes:
      store: training pictures.
      codec: frozen codec parameters.
      embeddings: prompt embeddings, [styles, m, 384], rows in the order of the styles
        (those with a teacher, then those of `pairs`).
      counts: how many embeddings of a row are distinct.
      styler: parameters of the style network.
      vgg: parameters of the perceptual features (pixel stage).
      pairs: the users' own styles.
      only: names of the styles with a teacher that take part, a name for each clip of
        a batch; empty for all once.
    """

    store: FrameStore
    codec: Params
    embeddings: Float[Array, "s m 384"]
    counts: Int[Array, " s"]
    styler: Any = None
    vgg: Any = None
    pairs: PairStore | None = None
    only: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """What a device draws for one step; static.

    Attributes:
      size: height and width in pixels.
      frames: T.
      anchor_probability: share of clips whose first frame is an old one.
      source_dropped: share of clips whose source is missing from some frame on; the
        world then stands still.
      draws: how often each clip is used in a step, every time with a wording, flow
        times, noise and history of its own. Drawing, styling and encoding a clip cost
        several times more than a pass of the default denoiser over it.
    """

    size: int = 512
    frames: int = 8
    anchor_probability: float = 0.2
    source_dropped: float = 0.1
    draws: int = 2


def repeated_looks(
    styler: Any, only: tuple[str, ...] = (), looks: int = 1
) -> tuple[str, ...]:
    """Names for `DenoiserData.only`: styles with variants stand there several times.

    Args:
      styler: parameters of the style network, or None.
      only: the styles that take part; empty for all.
      looks: clips a batch of each style that has variants, 1 or more.

    Raises:
      MirageError: `looks` is below 1.
    """
    if looks < 1:
        raise MirageError(f"looks={looks}: take 1 or more clips a style with variants")
    styles = find_styles(only, all_styles(styler))
    return tuple(
        style.name for style in styles for _ in range(looks if style.look else 1)
    )


def style_names(
    styler: Any, pairs: PairStore | None, only: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """All styles of a batch, in the order of `DenoiserData.embeddings`."""
    chosen = tuple(style.name for style in find_styles(only, all_styles(styler)))
    return chosen + (pairs.styles if pairs is not None else ())


def _draw_clips(
    data: DenoiserData, key: Array, batch: ClipBatch, styles: tuple[Style, ...]
) -> tuple[Float[Array, "s T H W 3"], Bool[Array, " s"]]:
    """One clip for every style, and whether it opens with an old frame.

    Styles of even number see real clips and odd ones photographs under a camera path,
    or the other way round, as a coin says: so one clip a style is enough.
    """
    frames: list[Any] = [None] * len(styles)
    anchored: list[Any] = [None] * len(styles)
    size = (batch.size, batch.size)
    kinds = (
        sample_clips if data.store.frames.shape[0] else sample_paths,
        sample_paths if data.store.photos.shape[0] else sample_clips,
    )
    coin_key, key = jax.random.split(key)
    coin = jax.random.bernoulli(coin_key)
    for compares in (False, True):
        # An old first frame would break effects that compare their frames.
        anchor = 0.0 if compares else batch.anchor_probability
        members = [
            n for n, style in enumerate(styles) if bool(style.history) == compares
        ]
        sides = [[n for n in members if n % 2 == parity] for parity in (0, 1)]
        count = max(map(len, sides))
        if not count:
            continue
        real, made = (
            sample(
                data.store,
                jax.random.fold_in(key, 2 * kind + compares),
                count,
                batch.frames,
                size,
                anchor,
            )
            for kind, sample in enumerate(kinds)
        )
        for parity, side in enumerate(sides):
            clip = jax.tree.map(partial(jnp.where, coin ^ bool(parity)), real, made)
            for row, number in enumerate(side):
                frames[number], anchored[number] = clip.frames[row], clip.anchored[row]
    return jnp.stack(frames), jnp.stack(anchored)


def frames_at(
    frames: Float[Array, "s T H W C"], shown: Int[Array, "s t"]
) -> Float[Array, "s t H W C"]:
    """Frames of each clip by their numbers."""
    return jnp.take_along_axis(frames, shown[..., None, None, None], axis=1)


def sample_pairs_of_styles(
    data: DenoiserData,
    key: Array,
    batch: ClipBatch,
    present: Bool[Array, "s T"] | None = None,
    variants: Int[Array, " s"] | None = None,
) -> tuple[Array, Array, Bool[Array, " s"]]:
    """One (source, styled) clip of every style, float32 [s, T, H, W, 3] in [0, 1].

    Args:
      data: what is drawn from.
      key: same key, same clips.
      batch: how.
      present: which frames have a source, of `presence`. Where it is gone the world
        stands still: nobody could guess how it moved on, and a model that is to guess
        learns to blur. All have one without it.
      variants: of the styles that have any; they are drawn without it.

    Returns:
      Sources, targets, and whether a clip opens with an old frame.
    """
    styles = find_styles(data.only, all_styles(data.styler))
    draw_key, start_key, effect_key, pair_key = jax.random.split(key, 4)
    with jax.named_scope("clips"):
        frames, anchored = _draw_clips(data, draw_key, batch, styles)
    if present is not None:
        times = jnp.arange(batch.frames)[None]
        shown = jnp.minimum(times, present.sum(1, keepdims=True) - 1)
        frames = frames_at(frames, shown[: len(styles)])
    starts = jax.random.randint(start_key, (len(styles),), 0, INDEX_RANGE)
    effect_keys = jax.random.split(effect_key, len(styles))
    sources, targets = [], []
    for number, style in enumerate(styles):
        index = starts[number] + jnp.arange(batch.frames, dtype=jnp.int32)
        with jax.named_scope(style.name):
            if style.look is not None and variants is not None:
                source = frames[number]
                target = style.look(source, variants[number])
            else:
                source, target = style.apply(frames[number], index, effect_keys[number])
        sources.append(source)
        targets.append(target)
    if data.pairs is not None:
        count = len(data.pairs.styles)
        for number, one_key in enumerate(jax.random.split(pair_key, count)):
            source, target = sample_pairs(
                data.pairs, one_key, 1, batch.frames, (batch.size,) * 2, number
            )
            if present is not None:
                row = shown[len(styles) + number][None]
                source, target = frames_at(source, row), frames_at(target, row)
            sources.append(source[0])
            targets.append(target[0])
        anchored = jnp.concatenate([anchored, jnp.zeros(count, bool)])
    return jnp.stack(sources), jnp.stack(targets), anchored


def presence(key: Array, clips: int, batch: ClipBatch) -> Bool[Array, "s T"]:
    """Which frames have a source: in some clips none from a random frame on."""
    coin, where = jax.random.split(key)
    first = jax.random.randint(where, (clips, 1), 1, batch.frames)
    dropped = jax.random.uniform(coin, (clips, 1)) < batch.source_dropped
    return ~(dropped & (jnp.arange(batch.frames)[None] >= first))
