"""What the style network is trained on: paintings, their Gram matrices, the loss.

Content and style losses of Gatys et al. 2015 (https://arxiv.org/abs/1508.06576) and
Johnson et al. 2016 (https://arxiv.org/abs/1603.08155), each divided by the size of
what it compares to, so that one set of weights fits every painting; and a stability
term: a shifted, slightly noisy picture must give the shifted result. It makes video
calm and gives a smooth teacher that a small student can follow.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8
from PIL import Image, UnidentifiedImageError

from mirage_jax.data.store import FrameStore, sample_clips, sample_paths
from mirage_jax.errors import MirageError
from mirage_jax.styler import NEURAL_STYLES, StylerParams, styler_apply
from mirage_jax.training.step import LossFn
from mirage_jax.training.vgg import STYLE_LAYERS, Features, features, gram

Grams = dict[str, Float[Array, "styles C C"]]
Metrics = dict[str, Float[Array, ""]]

CONTENT_LAYER = "relu3_3"
PIXELS = "pixels"
MAX_SHIFT = 8
LEAST_CONTRAST = 0.05  # spread of the values of a picture that is worth painting


@dataclass(frozen=True)
class Painting:
    """A painting's file, the edge to cut off, and how large it hangs.

    Attributes:
      file: its name.
      trim: fraction of each side that shows a frame or a margin.
      scale: short side of the painting over the short side of a frame; it sets how
        wide strokes come out.
    """

    file: str
    trim: float = 0.02
    scale: float = 1.0


PAINTINGS = {
    "starry_night": Painting("van_gogh_starry_night.jpg", trim=0.04, scale=1.6),
    "wheatfield": Painting("van_gogh_040.webp", trim=0.03, scale=1.5),
    # A small picture: larger would only blur it.
    "scream": Painting("munch_scream_detail.webp", scale=0.8),
    "cafe_terrace": Painting("van_gogh_003.webp", scale=1.4),
    "autumn": Painting("autumn_tree_art.webp", scale=1.4),
}


@dataclass(frozen=True)
class StylerLoss:
    """Weights of the loss terms."""

    content: float = 1.0
    style: float = 10.0
    variation: float = 3.0
    stability: float = 30.0


def load_painting(
    folder: str | Path, painting: Painting, size: int
) -> Float[np.ndarray, "crops size size 3"]:
    """The painting as float32 RGB in [0, 1], as it hangs beside a size x size frame.

    What is larger than the frame comes as the fewest evenly spaced crops that show
    all of it; what is smaller goes on by reflection. Raises MirageError if the file
    is missing or no picture.
    """
    path = Path(folder) / painting.file
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (FileNotFoundError, NotADirectoryError):
        raise MirageError(
            f"painting {str(path)!r} does not exist: pass the folder of paintings"
        ) from None
    except (UnidentifiedImageError, OSError) as error:
        raise MirageError(
            f"painting {str(path)!r} cannot be read ({error}): pass a JPEG, PNG or WebP"
        ) from None
    width, height = picture.size
    cut_x, cut_y = round(painting.trim * width), round(painting.trim * height)
    picture = picture.crop((cut_x, cut_y, width - cut_x, height - cut_y))
    factor = painting.scale * size / min(picture.size)
    width, height = (max(1, round(factor * side)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    missing = [max(0, size - side) for side in (height, width)]
    pad = [(m // 2, m - m // 2) for m in missing] + [(0, 0)]
    pixels = np.pad(np.asarray(picture, np.float32) / 255.0, pad, mode="symmetric")
    tops, lefts = (_crop_starts(side, size) for side in pixels.shape[:2])
    return np.stack([pixels[y : y + size, x : x + size] for y in tops for x in lefts])


def _crop_starts(length: int, size: int) -> list[int]:
    """Where the fewest crops of `size` that cover `length` begin, evenly spaced."""
    count = -(-length // size)
    return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]


def style_grams(
    found: Features, pictures: Float[Array, "n H W 3"]
) -> dict[str, Float[Array, "n C C"]]:
    """Gram matrices of the style layers, and the first two moments of the colours.

    Features say little about the palette, which is what one sees first.
    """
    grams = {layer: gram(found[layer]) for layer in STYLE_LAYERS}
    centred = 2.0 * pictures.astype(jnp.float32) - 1.0
    ones = jnp.ones((*centred.shape[:3], 1), jnp.float32)
    grams[PIXELS] = gram(jnp.concatenate([centred, ones], axis=-1))
    return grams


def painting_grams(
    vgg: Mapping[str, Mapping[str, jax.Array]],
    paintings: Sequence[Float[np.ndarray, "crops H W 3"]],
    dtype: DTypeLike = jnp.bfloat16,
) -> Grams:
    """The style of each painting: the mean over its crops of `style_grams`."""

    @jax.jit
    def of_crops(vgg: Mapping[str, Mapping[str, jax.Array]], crops: Array) -> Grams:
        def one(crop: Array) -> Grams:
            grams = style_grams(features(vgg, crop[None], dtype), crop[None])
            return {layer: matrix[0] for layer, matrix in grams.items()}

        return jax.lax.map(one, crops)

    # One program for all crops: their number differs from painting to painting.
    every = jax.device_get(of_crops(vgg, np.concatenate(paintings)))
    ends = np.cumsum([len(crops) for crops in paintings])[:-1]
    return {
        layer: jnp.stack([part.mean(0) for part in np.split(matrices, ends)])
        for layer, matrices in every.items()
    }


def load_grams(
    vgg: Mapping[str, Mapping[str, jax.Array]], folder: str | Path, size: int
) -> Grams:
    """The style of all `NEURAL_STYLES` from a folder of paintings, at one size."""
    paintings = [load_painting(folder, PAINTINGS[n], size) for n in NEURAL_STYLES]
    return painting_grams(vgg, paintings)


def _relative_square(found: Array, wanted: Array) -> Array:
    """Squared distance over the target's squared length, a picture at a time; [n]."""
    found, wanted = found.astype(jnp.float32), wanted.astype(jnp.float32)
    axes = tuple(range(1, found.ndim))
    error = jnp.square(found - wanted).sum(axes)
    return error / (jnp.square(wanted).sum(axes) + 1e-6)


def _disturb(key: Array, images: Array) -> tuple[Array, Array]:
    """Shifts by whole pixels, the same for all, with noise and a change of gain."""
    shift_key, noise_key, gain_key = jax.random.split(key, 3)
    shift = jax.random.randint(shift_key, (2,), -MAX_SHIFT, MAX_SHIFT + 1)
    noise = 0.02 * jax.random.normal(noise_key, images.shape)
    gain = jax.random.uniform(gain_key, (images.shape[0], 1, 1, 1), minval=-1.0)
    disturbed = jnp.roll(images, shift, (1, 2)) * (1.0 + 0.05 * gain) + noise
    return jnp.clip(disturbed, 0.0, 1.0), shift


def styler_loss(
    params: StylerParams,
    key: Array,
    images: Float[Array, "n H W 3"],
    vgg: Mapping[str, Mapping[str, jax.Array]],
    grams: Grams,
    weights: StylerLoss,
    dtype: DTypeLike = jnp.bfloat16,
) -> tuple[Float[Array, ""], Metrics]:
    """Mean loss of all styles; each style paints its own slice of the pictures.

    Args:
      images: pictures in [0, 1]; n is a multiple of the number of styles, the first
        n / styles pictures go to style 0 and so on.
      grams: from `painting_grams` at the same size, in the order of the styles.

    Returns:
      The weighted loss, and the single terms (float32 scalars): content, style,
      variation, stability, and style_<number> of every style.
    """
    styles = grams[PIXELS].shape[0]
    count, remainder = divmod(images.shape[0], styles)
    if remainder or not count:
        raise ValueError(f"{images.shape[0]} pictures for {styles} styles")
    disturbed, shift = _disturb(key, images)

    def paint(pictures: Array) -> Array:
        parts = pictures.reshape(styles, count, *pictures.shape[1:])
        painted = [styler_apply(params, parts[i], i, dtype) for i in range(styles)]
        return jnp.concatenate(painted)

    painted, painted_disturbed = paint(images), paint(disturbed)
    found = features(vgg, painted, dtype)
    wanted = features(vgg, images, dtype)
    # Over the whole batch: a flat picture alone would have next to no features.
    content = _relative_square(
        found[CONTENT_LAYER].reshape(1, -1), wanted[CONTENT_LAYER].reshape(1, -1)
    )[0]
    by_picture = sum(
        _relative_square(matrix, jnp.repeat(grams[layer], count, axis=0))
        for layer, matrix in style_grams(found, painted).items()
    ) / len(grams)
    by_style = jnp.reshape(by_picture, (styles, count)).mean(1)
    variation = jnp.square(jnp.diff(painted, axis=1)).mean()
    variation += jnp.square(jnp.diff(painted, axis=2)).mean()
    # The roll brings the far side in at the edges: not compared.
    inner = slice(2 * MAX_SHIFT, -2 * MAX_SHIFT)
    change = painted_disturbed - jnp.roll(painted, shift, (1, 2))
    stability = jnp.square(change[:, inner, inner]).mean()
    loss = (
        weights.content * content
        + weights.style * by_style.mean()
        + weights.variation * variation
        + weights.stability * stability
    )
    metrics = {
        "content": content,
        "style": by_style.mean(),
        "variation": variation,
        "stability": stability,
    }
    for index in range(styles):
        metrics[f"style_{index}"] = by_style[index]
    return loss, metrics


class StylerData(NamedTuple):
    """What the training step reads, a pytree that lies on every device."""

    store: FrameStore
    vgg: Mapping[str, Mapping[str, jax.Array]]
    grams: dict[str, Grams]  # by the size of the frame, as text


def draw_pictures(
    store: FrameStore, key: Array, count: int, size: int
) -> Float[Array, "count size size 3"]:
    """Single pictures in [0, 1], each from a clip or a photograph with equal chance.

    A store that holds only one of the two gives that one; ValueError if it is empty.
    """
    clip_key, photo_key, choice_key = jax.random.split(key, 3)
    square = (size, size)
    if not store.photos.shape[0]:
        return sample_clips(store, clip_key, count, 1, square).frames[:, 0]
    photos = sample_paths(store, photo_key, count, 1, square).frames[:, 0]
    if not store.clip_start.shape[0]:
        return photos
    clips = sample_clips(store, clip_key, count, 1, square).frames[:, 0]
    from_clip = jax.random.bernoulli(choice_key, shape=(count,))
    # A flat picture (a fade to black) leaves every layer's normalisation dividing by
    # next to nothing: its gradient grows a hundredfold a layer.
    from_clip &= clips.std((1, 2, 3)) > LEAST_CONTRAST
    return jnp.where(from_clip[:, None, None, None], clips, photos)


def make_styler_loss(
    size: int,
    pictures_per_style: int,
    weights: StylerLoss,
    dtype: DTypeLike = jnp.bfloat16,
) -> LossFn:
    """The loss of one training step on frames of one size, for `training.loop`.

    It reads `StylerData`; metrics carry the size in their names, `content_512`.
    """

    def loss(
        params: StylerParams, key: Array, data: StylerData, step: Array
    ) -> tuple[Array, Metrics]:
        del step
        picture_key, loss_key = jax.random.split(key)
        grams = data.grams[str(size)]
        count = pictures_per_style * grams[PIXELS].shape[0]
        images = draw_pictures(data.store, picture_key, count, size)
        value, metrics = styler_loss(
            params, loss_key, images, data.vgg, grams, weights, dtype
        )
        return value, {f"{name}_{size}": term for name, term in metrics.items()}

    return loss


@functools.partial(jax.jit, static_argnames=("size", "rows"))
def _float_grid(
    params: StylerParams, store: FrameStore, key: Array, size: int, rows: int
) -> Float[Array, "height width 3"]:
    images = draw_pictures(store, key, rows, size)
    styles = params["out"]["bias"].shape[0]
    columns = [images] + [styler_apply(params, images, i) for i in range(styles)]
    return jnp.concatenate(columns, axis=2).reshape(rows * size, -1, 3)


def picture_grid(
    params: StylerParams, data: StylerData, key: Array, size: int, rows: int = 3
) -> UInt8[np.ndarray, "height width 3"]:
    """uint8 [rows * size, (1 + styles) * size, 3]: pictures and all their styles."""
    grid = np.asarray(_float_grid(params, data.store, key, size, rows))
    return np.round(255.0 * np.clip(grid, 0.0, 1.0)).astype(np.uint8)
