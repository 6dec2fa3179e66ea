"""Train the denoiser of a model and write it as safetensors.

    python -m experiments.train_denoiser --config=configs/train_denoiser.py \
        --config.data=runs/data --config.codec=runs/codec/codec.safetensors
    python -m experiments.train_denoiser --config=configs/train_denoiser.py:pixel \
        --config.init=runs/denoiser_diffusion/denoiser.safetensors
    python -m experiments.train_denoiser --config=configs/train_denoiser.py:rollout \
        --config.init=runs/denoiser_pixel/denoiser.safetensors

Trains on all devices of all hosts; started again, it goes on where it was. Writes
denoiser.safetensors (the running average of the weights), checkpoints, pictures and
TensorBoard events into the work folder. `--config.data=synthetic --config.model=test
--config.codec=` is a smoke run with an untrained codec.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from ml_collections import config_dict, config_flags

from experiments.command import command
from mirage_jax import codec
from mirage_jax.config import TEXT_WIDTH, DenoiserConfig, ModelConfig, model_config
from mirage_jax.data.pairs import PairStore, load_pairs
from mirage_jax.data.prompt_table import load_prompts
from mirage_jax.data.shards import read_manifest
from mirage_jax.data.store import FrameStore, load_store, synthetic_store
from mirage_jax.denoiser import denoise_clip, init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.flow import NoiseMix
from mirage_jax.profiling import Profile
from mirage_jax.styler import load_styler
from mirage_jax.training.denoiser import (
    ClipBatch,
    DenoiserData,
    DenoiserLoss,
    make_denoiser_loss,
    sample_pairs_of_styles,
    style_names,
)
from mirage_jax.training.history import HistoryAugmentation
from mirage_jax.training.hosts import HostsConfig, join, leads
from mirage_jax.training.loop import train
from mirage_jax.training.mesh import MeshConfig, make_mesh
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.prompts import (
    PromptAugmentation,
    prompt_rows,
    sample_prompts,
)
from mirage_jax.training.rollout import RollOut, make_rollout_loss, parse_mode
from mirage_jax.training.step import LossFn
from mirage_jax.training.vgg import load_vgg
from mirage_jax.training.work import SampleWork, clip_work
from mirage_jax.weights import load_codec, load_weights, save_weights

_CONFIG = config_flags.DEFINE_config_file("config", "configs/train_denoiser.py")

_PICTURED_FRAMES = (0, -1)  # of each style's clip
_PLAIN_WORDING = PromptAugmentation(mix=0.0, noise=0.0)


def _data(
    config: config_dict.ConfigDict, codec_params: Any
) -> tuple[DenoiserData, tuple[str, ...]]:
    styler = load_styler(config.styler) if config.styler else None
    store, pairs = _pictures(config)
    only = tuple(name for name in config.styles.split(",") if name)
    names = style_names(styler, pairs, only)
    if config.data == "synthetic":
        # One random unit vector a style stands for its wordings.
        embeddings = np.random.default_rng(0).normal(size=(len(names), 1, TEXT_WIDTH))
        embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
        counts = np.ones(len(names), np.int32)
    else:
        embeddings, counts = prompt_rows(load_prompts(config.data), names)
    data = DenoiserData(
        store=store,
        codec=codec_params,
        embeddings=jnp.asarray(embeddings, jnp.float32),
        counts=jnp.asarray(counts),
        styler=styler,
        vgg=load_vgg(config.vgg) if config.vgg else None,
        pairs=pairs,
        only=only,
    )
    return data, names


def _pictures(config: config_dict.ConfigDict) -> tuple[FrameStore, PairStore | None]:
    if config.data == "synthetic":
        return synthetic_store(jax.random.key(config.seed)), None
    manifest = read_manifest(pathlib.Path(config.data))
    own = any(style["pairs"] for style in manifest["styles"])
    return load_store(config.data), load_pairs(config.data) if own else None


def _picture(
    params: Any, data: DenoiserData, key: jax.Array, model: ModelConfig, size: int
) -> np.ndarray:
    """Rows: styles; columns: source, teacher, model in one step, at two frames."""

    @jax.jit
    def draw(params, data, key):
        batch = ClipBatch(size, anchor_probability=0.0, source_dropped=0.0)
        source, target, anchored = sample_pairs_of_styles(data, key, batch)
        latent = codec.encode(data.codec, source, model.codec, jnp.bfloat16)
        clips, frames = latent.shape[:2]
        found = denoise_clip(
            params,
            model,
            jax.random.normal(key, latent.shape),
            latent,
            jnp.ones((clips, frames), bool),
            jnp.zeros((clips, frames)),
            jnp.ones((clips, frames)),
            sample_prompts(data.embeddings, data.counts, key, _PLAIN_WORDING),
            anchored,
            dtype=jnp.bfloat16,
        )
        pictured = jnp.array(_PICTURED_FRAMES)
        found = codec.decode(data.codec, found[:, pictured], model.codec, jnp.bfloat16)
        return source[:, pictured], target[:, pictured], found

    columns = [np.asarray(x) for x in draw(params, data, key)]
    rows = [
        np.concatenate([x[row, frame] for frame in range(2) for x in columns], axis=1)
        for row in range(len(columns[0]))
    ]
    grid = np.concatenate(rows)[::2, ::2]
    return np.round(255 * np.clip(grid, 0, 1)).astype(np.uint8)


class _Program(NamedTuple):
    """A loss, how often it uses a clip, and what a use is, where that was counted."""

    loss: LossFn
    draws: int
    work: SampleWork | None


def _programs(
    config: config_dict.ConfigDict, model: ModelConfig, loss: DenoiserLoss
) -> list[_Program]:
    """What the steps can use, in the order that `pattern` counts in."""
    clips = [
        ClipBatch(
            size,
            config.frames,
            config.anchor_probability,
            config.source_dropped,
            config.draws,
        )
        for size in config.sizes
    ]
    programs = [
        _Program(
            make_denoiser_loss(model, batch, loss),
            config.draws,
            clip_work(model, batch.size, batch.frames),
        )
        for batch in clips
    ]
    settings = config.rollout
    streams = dataclasses.replace(clips[0], frames=settings.frames)
    history = dataclasses.replace(loss.history, probability=settings.corrupted)
    loss = dataclasses.replace(loss, history=history)
    for mode in settings.modes.split(",") if settings.modes else ():
        rollout = RollOut(
            *parse_mode(mode), settings.opening, settings.closing, settings.anchored
        )
        one = make_rollout_loss(model, streams, loss, rollout)
        programs.append(_Program(one, 1, None))
    return programs


def run(config: config_dict.ConfigDict) -> None:
    """One stage; raises MirageError for what the user can cure."""
    join(HostsConfig(**config.hosts))
    mesh = make_mesh(MeshConfig(**config.mesh))
    profile = Profile(config.profile_dir, "step")
    model = model_config(config.model)
    if config.codec:
        codec_params, codec_config, _ = load_codec(config.codec)
        model = dataclasses.replace(model, codec=codec_config)
    else:
        init_codec = jax.jit(codec.init_codec, static_argnums=1)
        codec_params = init_codec(jax.random.key(0), model.codec)
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = TrainConfig(**{k: v for k, v in config.items() if k in fields})
    data, names = _data(config, codec_params)

    def fresh(denoiser: DenoiserConfig) -> Any:
        key = jax.random.key(config.seed)
        full = dataclasses.replace(model, denoiser=denoiser)
        return jax.jit(init_denoiser, static_argnums=1)(key, full)

    if config.init:
        params, denoiser, _ = load_weights(config.init, DenoiserConfig, fresh)
        model = dataclasses.replace(model, denoiser=denoiser)
    else:
        params = fresh(model.denoiser)
    loss = DenoiserLoss(
        **config.loss,
        mix=NoiseMix(**config.mix),
        history=HistoryAugmentation(**config.history),
        prompts=PromptAugmentation(**config.prompts),
    )
    pattern, programs = config.pattern, _programs(config, model, loss)
    if not all(0 <= which < len(programs) for which in pattern):
        raise MirageError(
            f"pattern={pattern} must be numbers below {len(programs)}, one for each of "
            "the sizes and of the modes of the roll-outs"
        )
    # What no step uses need not be compiled.
    used = sorted(set(pattern))
    programs = [programs[which] for which in used]
    state = train(
        config.workdir,
        settings,
        params,
        [program.loss for program in programs],
        lambda step: used.index(pattern[step % len(pattern)]),
        data,
        pictures=lambda ema, data, key: _picture(
            ema, data, key, model, max(config.sizes)
        ),
        restore=config.restore,
        profile=profile,
        mesh=mesh,
        samples=[len(names) * program.draws for program in programs],
        work=[program.work for program in programs],
    )
    if not leads():
        return
    path = pathlib.Path(config.workdir) / "denoiser.safetensors"
    digest = save_weights(path, jax.device_get(state.ema), model.denoiser)
    print(f"{path}: step {int(state.step)}, sha256 {digest[:16]}")


main = command("train_denoiser", lambda: run(_CONFIG.value))

if __name__ == "__main__":
    app.run(main)
