"""The denoiser's losses on clips: diffusion forcing, pixel finetune, few steps.

Everything a step needs is drawn inside it: clips and their targets (`clips`), the
codec's latents, the prompts' embeddings, flow times and a past with flaws.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax import codec, flow
from mirage_jax.config import ModelConfig
from mirage_jax.data.varied_styles import VARIANTS
from mirage_jax.denoiser import REMAT, Params, denoise_clip
from mirage_jax.errors import MirageError
from mirage_jax.pixels import to_bytes, to_floats
from mirage_jax.training import few_step
from mirage_jax.training.clips import (
    ClipBatch,
    DenoiserData,
    frames_at,
    presence,
    sample_pairs_of_styles,
)
from mirage_jax.training.few_step import FewStep
from mirage_jax.training.history import HistoryAugmentation, corrupt_history
from mirage_jax.training.prompts import PromptAugmentation, sample_prompts
from mirage_jax.training.variants import name_variant
from mirage_jax.training.vgg import perceptual_loss


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
      few_step: what else than the data latents are compared with.
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
    few_step: FewStep = FewStep()
    remat: str = "none"

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise MirageError(f"remat={self.remat!r}: choose one of {', '.join(REMAT)}")

    @property
    def in_pixels(self) -> bool:
        return self.pixel_l1 > 0 or self.pixel_mse > 0 or self.perceptual > 0


def _repeat(x: Array, times: int) -> Array:
    return jnp.concatenate([x] * times)


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
    return jnp.where(present[..., None, None, None], source, frames_at(styled, last))


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
        keys = jax.random.split(key, 11)
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
        everywhere = slice(None)
        frozen = jax.lax.stop_gradient(params)

        def denoise(
            params: Params,
            rows: Any,
            noisy: Array,
            past: Array,
            tau: Array,
            step_size: Array,
            remat: str = "none",
        ) -> Array:
            """Data that the model predicts for some clips."""
            return denoise_clip(
                params,
                model,
                noisy,
                _with_stand_ins(model, source_latent[rows], present[rows], past),
                present[rows],
                tau,
                step_size,
                prompt[rows],
                anchored[rows],
                dtype=dtype,
                remat=remat,
            )

        def own(rows: Array, latents: Array) -> Array:
            """What a stream of one step with the merged commit would have shown."""
            zeros = jnp.zeros(latents.shape[:2])
            return denoise(frozen, rows, noise[rows], latents, zeros, zeros + 1)

        def round_trip(rows: Array, latents: Array) -> Array:
            del rows
            return through_codec(data.codec, latents, model, dtype)

        with jax.named_scope("history"):
            history = corrupt_history(
                keys[5], clean, loss.history, own=own, round_trip=round_trip
            )
        with jax.named_scope("few_step"):
            wanted, tau, step_size = few_step.ask(
                keys[10],
                loss.few_step,
                clean,
                history,
                noise,
                tau,
                step_size,
                partial(denoise, frozen),
            )
        with jax.named_scope("denoise"):
            noisy = flow.noisy(history, noise, tau)
            predicted = denoise(
                params, everywhere, noisy, history, tau, step_size, loss.remat
            )
        difference = predicted - clean
        error = jnp.square(difference).mean((2, 3, 4))  # [s, T]
        weight = flow.frame_weight(tau)
        weight = weight * jnp.where(present, 1.0, loss.missing_source)
        asked = jnp.square(predicted - wanted).mean((2, 3, 4))
        terms = {"latent": (weight * asked).mean()}
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
