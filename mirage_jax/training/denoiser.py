"""Training the denoiser: pairs made on the device, diffusion forcing, pixel finetune.

Everything a step needs is drawn inside it: clips and camera paths from the frame
store, the teachers' targets, the codec's latents, the prompts' embeddings.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import codec, flow
from mirage_jax.config import ModelConfig
from mirage_jax.data.pairs import PairStore, sample_pairs
from mirage_jax.data.store import FrameStore, sample_clips, sample_paths
from mirage_jax.data.teachers import Style, find_styles, trainable_styles
from mirage_jax.data.varied_styles import VARIANTS
from mirage_jax.denoiser import REMAT, Params, denoise_clip
from mirage_jax.errors import MirageError
from mirage_jax.pixels import to_bytes, to_floats
from mirage_jax.training.history import HistoryAugmentation, corrupt_history
from mirage_jax.training.prompts import PromptAugmentation, sample_prompts
from mirage_jax.training.variants import name_variant
from mirage_jax.training.vgg import perceptual_loss

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
      only: names of the styles with a teacher that take part; empty for all.
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


@dataclasses.dataclass(frozen=True)
class DenoiserLoss:
    """Weights and mixes of a stage; static.

    Attributes:
      latent: weight of the error of the predicted latents.
      pixel_l1, pixel_mse, perceptual: weights of the errors of decoded frames; all 0
        leaves decoding out (the diffusion stage).
      decoded: frames of a clip that are decoded, evenly spaced from a random one on.
      steady: weight of how much the error of latents changes from a frame to the next,
        between frames from pure noise: what stays does not flicker.
      missing_source: weight of frames that have to do without a source.
      fixed_noise: share of clips with one noise for all frames, as streams have it.
      mix: how flow times are drawn.
      history: how the past is corrupted.
      prompts: how far prompts stray from the wordings.
      remat: what a layer computes again, one of `mirage_jax.denoiser.REMAT`.
    """

    latent: float = 1.0
    pixel_l1: float = 0.0
    pixel_mse: float = 0.0
    perceptual: float = 0.0
    decoded: int = 1
    steady: float = 0.0
    missing_source: float = 1.0
    fixed_noise: float = 0.5
    mix: flow.NoiseMix = flow.NoiseMix()
    history: HistoryAugmentation = HistoryAugmentation()
    prompts: PromptAugmentation = PromptAugmentation()
    remat: str = "none"

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise MirageError(f"remat={self.remat!r}: choose one of {', '.join(REMAT)}")

    @property
    def in_pixels(self) -> bool:
        return self.pixel_l1 > 0 or self.pixel_mse > 0 or self.perceptual > 0


def style_names(
    styler: Any, pairs: PairStore | None, only: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """All styles of a batch, in the order of `DenoiserData.embeddings`."""
    chosen = tuple(style.name for style in find_styles(only, trainable_styles(styler)))
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


def _at(
    frames: Float[Array, "s T H W C"], shown: Int[Array, "s t"]
) -> Float[Array, "s t H W C"]:
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
    styles = find_styles(data.only, trainable_styles(data.styler))
    draw_key, start_key, effect_key, pair_key = jax.random.split(key, 4)
    with jax.named_scope("clips"):
        frames, anchored = _draw_clips(data, draw_key, batch, styles)
    if present is not None:
        times = jnp.arange(batch.frames)[None]
        shown = jnp.minimum(times, present.sum(1, keepdims=True) - 1)
        frames = _at(frames, shown[: len(styles)])
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
            sources.append(source[0])
            targets.append(target[0])
        anchored = jnp.concatenate([anchored, jnp.zeros(count, bool)])
    source, target = jnp.stack(sources), jnp.stack(targets)
    if present is not None and data.pairs is not None:
        source, target = _at(source, shown), _at(target, shown)
    return source, target, anchored


def _repeat(x: Array, times: int) -> Array:
    return jnp.concatenate([x] * times)


def presence(key: Array, clips: int, batch: ClipBatch) -> Bool[Array, "s T"]:
    """Which frames have a source: in some clips none from a random frame on."""
    coin, where = jax.random.split(key)
    first = jax.random.randint(where, (clips, 1), 1, batch.frames)
    dropped = jax.random.uniform(coin, (clips, 1)) < batch.source_dropped
    return ~(dropped & (jnp.arange(batch.frames)[None] >= first))


def _with_stand_ins(
    model: ModelConfig,
    source: Float[Array, "n T h w C"],
    present: Bool[Array, "n T"],
    styled: Float[Array, "n T h w C"],
) -> Float[Array, "n T h w C"]:
    """What the denoiser is given: sources, or the last styled frame that had one."""
    if not model.denoiser.stand_in:
        return source
    last = present.sum(1, keepdims=True) - 1
    return jnp.where(present[..., None, None, None], source, _at(styled, last))


def change_of_error(
    error: Float[Array, "s T h w C"], counts: Bool[Array, "s T"]
) -> Float[Array, ""]:
    """Mean square of how the error differs between neighbours that both count."""
    both = counts[:, 1:] & counts[:, :-1]
    change = jnp.square(error[:, 1:] - error[:, :-1]).mean((2, 3, 4))
    return jnp.where(both, change, 0).sum() / jnp.maximum(both.sum(), 1)


def pixel_terms(
    data: DenoiserData,
    key: Array,
    predicted: Float[Array, "s T h w C"],
    targets: Float[Array, "s T H W 3"],
    model: ModelConfig,
    loss: DenoiserLoss,
    dtype: Any,
) -> dict[str, Array]:
    """Errors of decoded frames of every clip against the teacher's pictures."""
    clips, frames = predicted.shape[:2]
    frame_key, crop_key = jax.random.split(key)
    first = jax.random.randint(frame_key, (clips, 1), 0, frames)
    apart = jnp.arange(loss.decoded)[None] * frames // loss.decoded
    pick = ((first + apart) % frames).reshape(-1)
    rows = jnp.repeat(jnp.arange(clips), loss.decoded)
    with jax.named_scope("decode"):
        found = codec.decode(data.codec, predicted[rows, pick], model.codec, dtype)
    # Clips that are used several times lie behind each other.
    wanted = targets[rows % len(targets), pick]
    terms = {
        "pixel_l1": jnp.abs(found - wanted).mean(),
        "pixel_mse": jnp.square(found - wanted).mean(),
    }
    if data.vgg is not None and loss.perceptual:
        # Features cost more than decoding: a crop of one frame a clip.
        side = max(wanted.shape[1] // 4, 32)
        corner = jax.random.randint(crop_key, (2,), 0, wanted.shape[1] - side + 1)

        def crop(x):
            x = x[:: loss.decoded]
            return jax.lax.dynamic_slice(
                x, (0, corner[0], corner[1], 0), (clips, side, side, 3)
            )

        with jax.named_scope("perceptual"):
            terms["perceptual"] = perceptual_loss(
                data.vgg, crop(found), crop(wanted), dtype
            )
    return terms


def through_codec(
    params: Params, latents: Float[Array, "n T h w C"], model: ModelConfig, dtype: Any
) -> Float[Array, "n T h w C"]:
    """Latents of the pictures that latents become: decoded, as bytes, and encoded."""
    pictures = codec.decode(params, latents, model.codec, dtype)
    return codec.encode(params, to_floats(to_bytes(pictures)), model.codec, dtype)


def make_denoiser_loss(
    model: ModelConfig,
    batch: ClipBatch,
    loss: DenoiserLoss,
    dtype: Any = jnp.bfloat16,
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The loss of one static batch as the training loop wants it."""

    def run(
        params: Params, key: Array, data: DenoiserData, step: Array
    ) -> tuple[Array, dict[str, Array]]:
        del step
        keys = jax.random.split(key, 10)
        embeddings, counts = jnp.asarray(data.embeddings), jnp.asarray(data.counts)
        variants = jax.random.randint(keys[8], counts.shape, 0, VARIANTS)
        present = presence(keys[2], len(counts), batch)
        with jax.named_scope("draw"):
            source, target, anchored = sample_pairs_of_styles(
                data, keys[0], batch, present, variants
            )
        prompt = jnp.concatenate(
            [
                sample_prompts(embeddings, counts, one_key, loss.prompts)
                for one_key in jax.random.split(keys[1], batch.draws)
            ]
        )

        def encode(frames: Array) -> Array:
            latents = codec.encode(data.codec, frames, model.codec, dtype)
            return _repeat(jax.lax.stop_gradient(latents), batch.draws)

        with jax.named_scope("encode"):
            source_latent, clean = encode(source), encode(target)
        anchored = _repeat(anchored, batch.draws)
        present = _repeat(present, batch.draws)
        clips = clean.shape[0]
        tau = flow.draw_times(keys[3], clips, batch.frames, loss.mix)
        step_size = flow.draw_step_sizes(keys[4], tau)
        noise = flow.draw_noise(keys[6], clean.shape, model.denoiser.noise_offset)
        opening = name_variant(noise[:, 0], _repeat(variants, batch.draws))
        noise = noise.at[:, 0].set(opening)
        fixed = jax.random.uniform(keys[9], (clips, 1, 1, 1, 1)) < loss.fixed_noise
        noise = jnp.where(fixed, noise[:, :1], noise)

        def own(rows: Array, latents: Array) -> Array:
            """What a stream of one step with the merged commit would have shown."""
            zeros = jnp.zeros(latents.shape[:2])
            return denoise_clip(
                jax.lax.stop_gradient(params),
                model,
                noise[rows],
                _with_stand_ins(model, source_latent[rows], present[rows], latents),
                present[rows],
                zeros,
                zeros + 1,
                prompt[rows],
                anchored[rows],
                dtype=dtype,
            )

        def round_trip(rows: Array, latents: Array) -> Array:
            del rows
            return through_codec(data.codec, latents, model, dtype)

        with jax.named_scope("history"):
            history = corrupt_history(
                keys[5], clean, loss.history, own=own, round_trip=round_trip
            )
        with jax.named_scope("denoise"):
            predicted = denoise_clip(
                params,
                model,
                flow.noisy(history, noise, tau),
                _with_stand_ins(model, source_latent, present, history),
                present,
                tau,
                step_size,
                prompt,
                anchored,
                dtype=dtype,
                remat=loss.remat,
            )
        difference = predicted - clean
        error = jnp.square(difference).mean((2, 3, 4))  # [s, T]
        weight = flow.frame_weight(tau)
        weight = weight * jnp.where(present, 1.0, loss.missing_source)
        terms = {"latent": (weight * error).mean()}
        if loss.steady:
            terms["steady"] = change_of_error(difference, tau == 0)
        if loss.in_pixels:
            terms |= pixel_terms(data, keys[7], predicted, target, model, loss, dtype)
        value = sum(getattr(loss, name) * term for name, term in terms.items())
        at_noise = (tau == 0) & present
        one_step = jnp.where(at_noise, error, 0).sum() / jnp.maximum(at_noise.sum(), 1)
        metrics = {f"{name}_{batch.size}": term for name, term in terms.items()}
        metrics[f"one_step_{batch.size}"] = one_step
        return jnp.asarray(value), metrics

    return run
