"""Training the per-frame codec: its batches, its loss, its statistics.

Half of a batch are pictures as they are, half are what the teachers make of them: the
codec must carry line drawings, mosaics and noise just as well as photographs. Both the
source and the styled frame of an effect that needs memory take part, because the model
encodes dark and noisy sources too.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.codec import Params, decode_raw, encode_raw
from mirage_jax.config import DOWNSAMPLE, SIDE_MULTIPLE, CodecConfig
from mirage_jax.data.store import AnyArray, FrameStore, sample_clips, sample_paths
from mirage_jax.data.teachers import Style, all_styles, find_styles
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.metrics import psnr
from mirage_jax.pixels import to_bytes, to_floats
from mirage_jax.training.vgg import perceptual_loss

PERCEPTUAL_CROP = 128
PERCEPTUAL_SHARE = 4  # one picture in so many


@flax.struct.dataclass
class CodecData:
    """What the loss reads; None where a part is not there."""

    store: FrameStore
    styler: Any = None  # parameters of the style network
    vgg: Any = None  # parameters of the perceptual features
    only: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

    def styles(self) -> tuple[Style, ...]:
        """The styles that take part: those named in `only`, or all with a teacher."""
        return find_styles(self.only, all_styles(self.styler))


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures a device draws for one step; static.

    Attributes:
      size: height and width in pixels.
      raw: pictures left as they are.
      per_style: pictures for each style of one frame. An effect that needs memory
        gets half as many clips (at least one) and gives two pictures of each.
    """

    size: int
    raw: int
    per_style: int

    def __post_init__(self) -> None:
        whole = self.size > 0 and self.size % SIDE_MULTIPLE == 0
        if self.raw < 1 or self.per_style < 1 or not whole:
            raise MirageError(
                f"batch size={self.size} raw={self.raw} per_style={self.per_style}: "
                f"the size is a multiple of {SIDE_MULTIPLE}, the others are at least 1"
            )

    @property
    def memory_clips(self) -> int:
        return max(self.per_style // 2, 1)

    def pictures(self, styles: Sequence[Style]) -> int:
        """How many pictures `sample_batch` draws."""
        return self.raw + sum(
            2 * self.memory_clips if style.kind == "memory" else self.per_style
            for style in styles
        )


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `codec_loss`; `noise` is added to the raw latents."""

    l1: float = 1.0
    mse: float = 4.0
    gradient: float = 0.5
    perceptual: float = 0.02
    latent: float = 1e-4
    noise: float = 0.05


def sample_pictures(
    store: FrameStore, key: Array, count: int, size: int
) -> Float[Array, "count size size 3"]:
    """Draw pictures in [0, 1], half from clips, half from photographs, shuffled."""
    clip_key, path_key, order_key = jax.random.split(key, 3)
    has_clips, has_photos = store.frames.shape[0] > 0, store.photos.shape[0] > 0
    clips = count // 2 if has_clips and has_photos else count * has_clips
    parts = []
    if clips:
        parts.append(sample_clips(store, clip_key, clips, 1, (size, size)).frames)
    if count - clips:
        photos = count - clips
        parts.append(sample_paths(store, path_key, photos, 1, (size, size)).frames)
    # Each style gets its own slice: without a shuffle always from the same kind.
    return jax.random.permutation(order_key, jnp.concatenate(parts)[:, 0])


def sample_batch(
    data: CodecData, key: Array, batch: Batch
) -> Float[Array, "n size size 3"]:
    """Draw `batch.pictures(data.styles())` pictures in [0, 1], the raw ones first."""
    styles = data.styles()
    single = [style for style in styles if style.kind != "memory"]
    memory = [style for style in styles if style.kind == "memory"]
    keys = jax.random.split(key, 2 + len(styles))
    count = batch.raw + len(single) * batch.per_style
    images = sample_pictures(data.store, keys[0], count, batch.size)
    parts = [images[: batch.raw]]
    index = jnp.arange(batch.per_style, dtype=jnp.int32)
    for place, style in enumerate(single):
        start = batch.raw + place * batch.per_style
        part = images[start : start + batch.per_style]
        parts.append(style.apply(part, index, keys[2 + place])[1])
    draw = sample_clips if data.store.frames.shape[0] else sample_paths
    clip_keys = jax.random.split(keys[1], max(len(memory), 1))
    size = (batch.size, batch.size)
    for place, style in enumerate(memory):
        frames = style.history + 1
        clip = draw(data.store, clip_keys[place], batch.memory_clips, frames, size)
        style_keys = jax.random.split(keys[2 + len(single) + place], batch.memory_clips)
        apply = jax.vmap(style.apply, in_axes=(0, None, 0))
        source, styled = apply(clip.frames, jnp.arange(frames), style_keys)
        parts += [source[:, -1], styled[:, -1]]
    return jax.lax.stop_gradient(jnp.concatenate(parts))


def codec_loss(
    params: Params,
    key: Array,
    images: Float[Array, "n H W 3"],
    config: CodecConfig,
    weights: LossWeights = LossWeights(),
    vgg: Mapping[str, Any] | None = None,
    dtype: Any = jnp.bfloat16,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Reconstruction loss in pixels, pixel differences and VGG features.

    The raw latents get a little noise, so that nearby latents decode to nearby
    pictures, and a weak pull to zero.

    Returns:
      The loss, and the terms l1, mse, gradient, latent, perceptual (with `vgg`) and
      psnr (in dB, of the noisy latents), float32.
    """
    noise_key, crop_key = jax.random.split(key)
    with jax.named_scope("encode"):
        latents = encode_raw(params, images, config, dtype)
    noise = weights.noise * jax.random.normal(noise_key, latents.shape)
    with jax.named_scope("decode"):
        found = decode_raw(params, latents + noise, config, dtype)
    error = found - images
    down = jnp.abs(error[:, 1:] - error[:, :-1]).mean()
    right = jnp.abs(error[:, :, 1:] - error[:, :, :-1]).mean()
    terms = {
        "l1": jnp.abs(error).mean(),
        "mse": jnp.square(error).mean(),
        "gradient": down + right,
        "latent": jnp.square(latents).mean(),
    }
    if vgg is not None and weights.perceptual:
        side = min(PERCEPTUAL_CROP, images.shape[1], images.shape[2])
        corner = jax.random.uniform(crop_key, (2,))
        top, left = (
            (corner[axis] * (images.shape[1 + axis] - side + 1)).astype(jnp.int32)
            for axis in range(2)
        )

        def crop(x: Array) -> Array:
            x = x[::PERCEPTUAL_SHARE]
            return jax.lax.dynamic_slice(
                x, (0, top, left, 0), (x.shape[0], side, side, 3)
            )

        with jax.named_scope("perceptual"):
            terms["perceptual"] = perceptual_loss(vgg, crop(found), crop(images), dtype)
    loss = sum(getattr(weights, name) * value for name, value in terms.items())
    terms["psnr"] = psnr(jax.lax.stop_gradient(jnp.clip(found, 0, 1)), images).mean()
    return jnp.asarray(loss), terms


def make_loss(
    config: CodecConfig,
    batch: Batch,
    weights: LossWeights = LossWeights(),
    dtype: Any = jnp.bfloat16,
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The loss of one batch size as the training loop wants it, over `CodecData`."""

    def loss(
        params: Params, key: Array, data: CodecData, step: Array
    ) -> tuple[Array, dict[str, Array]]:
        del step
        batch_key, loss_key = jax.random.split(key)
        with jax.named_scope("draw"):
            images = sample_batch(data, batch_key, batch)
        with jax.named_scope("codec_loss"):
            value, terms = codec_loss(
                params, loss_key, images, config, weights, data.vgg, dtype
            )
        return value, {f"{k}_{batch.size}": v for k, v in terms.items()}

    return loss


def measure_statistics(
    params: Params,
    key: Array,
    data: CodecData,
    config: CodecConfig,
    batches: Sequence[tuple[Batch, int]],
    dtype: Any = jnp.bfloat16,
) -> dict[str, np.ndarray]:
    """Per-channel mean and spread of raw latents over drawn batches.

    Args:
      batches: (what to draw, how often). Each picture cell counts the same.

    Returns:
      {"mean", "spread"}, float32 [C]: what `params["statistics"]` should be.
    """
    total = np.zeros((2, config.channels))
    cells = 0

    @functools.partial(jax.jit, static_argnums=3)
    def moments(params: Params, key: Array, data: CodecData, batch: Batch) -> Array:
        z = encode_raw(params, sample_batch(data, key, batch), config, dtype)
        return jnp.stack([z.mean((0, 1, 2)), jnp.square(z).mean((0, 1, 2))])

    for number, (batch, count) in enumerate(batches):
        keys = jax.random.split(jax.random.fold_in(key, number), count)
        sums = [moments(params, one, data, batch) for one in keys]
        weight = batch.pictures(data.styles()) * (batch.size // DOWNSAMPLE) ** 2
        # Float64 on the host: a variance is a difference of two large sums.
        total += weight * np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
        cells += weight * count
    mean, square = total / cells
    spread = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32)}


def reconstruct(
    params: Params,
    images: UInt8[AnyArray, "n H W 3"],
    config: CodecConfig,
    dtype: Any = jnp.bfloat16,
) -> tuple[UInt8[np.ndarray, "n H W 3"], Float[np.ndarray, " n"]]:
    """Encode and decode pictures one at a time; returns them and their PSNR in dB."""

    @jax.jit
    def all_of(params: Params, images: Array) -> tuple[Array, Array]:
        def one(image: Array) -> tuple[Array, Array]:
            wanted = to_floats(image[None])
            found = decode_raw(
                params, encode_raw(params, wanted, config, dtype), config, dtype
            )
            shown = to_bytes(found)
            return shown[0], psnr(to_floats(shown), wanted)[0]

        return jax.lax.map(one, images)

    found, quality = jax.device_get(all_of(params, images))
    return found, quality


def style_all(
    images: UInt8[AnyArray, "n H W 3"], data: CodecData
) -> dict[str, UInt8[np.ndarray, "n H W 3"]]:
    """What every style of one frame makes of the pictures, by the style's name."""

    @jax.jit
    def apply(images: Array, data: CodecData) -> dict[str, Array]:
        frames = to_floats(images)
        index = jnp.arange(len(images), dtype=jnp.int32)
        found = {
            style.name: style.apply(frames, index, jax.random.key(0))[1]
            for style in data.styles()
            if style.kind != "memory"
        }
        return jax.tree.map(to_bytes, found)

    found: dict[str, np.ndarray] = jax.device_get(apply(images, data))
    return found


def picture_rows(
    params: Params, images: UInt8[AnyArray, "n H W 3"], config: CodecConfig
) -> UInt8[np.ndarray, "height width 3"]:
    """The pictures in a row, and below each what comes back through the codec."""
    found, _ = reconstruct(params, images, config)
    rows = [np.concatenate(list(row), axis=1) for row in (np.asarray(images), found)]
    return np.concatenate(rows)
