"""What a stage of the denoiser's training is made of, read from its config."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from mirage_jax import codec
from mirage_jax.config import TEXT_WIDTH, DenoiserConfig, ModelConfig, model_config
from mirage_jax.data.pairs import PairStore, load_pairs
from mirage_jax.data.prompt_table import load_prompts
from mirage_jax.data.shards import read_manifest
from mirage_jax.data.store import FrameStore, load_store, synthetic_store
from mirage_jax.denoiser import init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.flow import NoiseMix
from mirage_jax.modes import parse_mode
from mirage_jax.styler import load_styler
from mirage_jax.training.clips import (
    ClipBatch,
    DenoiserData,
    repeated_looks,
    style_names,
)
from mirage_jax.training.denoiser import DenoiserLoss, make_denoiser_loss
from mirage_jax.training.few_step import FewStep
from mirage_jax.training.history import HistoryAugmentation
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.prompts import PromptAugmentation, prompt_rows
from mirage_jax.training.rollout import RollOut, make_rollout_loss
from mirage_jax.training.step import LossFn
from mirage_jax.training.vgg import load_vgg
from mirage_jax.training.work import SampleWork, clip_work
from mirage_jax.weights import load_codec, load_weights


class Program(NamedTuple):
    """A loss, how often it uses a clip, and what a use is, where that was counted."""

    name: str
    loss: LossFn
    draws: int
    work: SampleWork | None


class Stage(NamedTuple):
    """All that `mirage_jax.training.loop.train` needs of it.

    Attributes:
      settings: of the loop.
      model: sizes of the weights that are trained.
      params: weights to start from.
      data: on the first device.
      styles: their names, in the order of the embeddings.
      programs: those that some step uses.
      pattern: numbers of `programs` that the steps use in turn.
    """

    settings: TrainConfig
    model: ModelConfig
    params: Any
    data: DenoiserData
    styles: tuple[str, ...]
    programs: list[Program]
    pattern: tuple[int, ...]


def load_stage(config: config_dict.ConfigDict) -> Stage:
    """Reads what `configs/train_denoiser.py` names.

    Raises:
      MirageError: for what the user can cure.
    """
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

    # What weights are trained for, whatever the old ones were.
    given = {"stand_in": config.stand_in, "noise_offset": config.noise_offset}
    if config.init:
        params, old, _ = load_weights(config.init, DenoiserConfig, fresh)
        denoiser = dataclasses.replace(old, **given)
    else:
        denoiser = dataclasses.replace(model.denoiser, **given)
        params = fresh(denoiser)
    model = dataclasses.replace(model, denoiser=denoiser)
    loss = DenoiserLoss(
        **config.loss,
        mix=NoiseMix(**config.mix),
        history=HistoryAugmentation(**config.history),
        prompts=PromptAugmentation(**config.prompts),
        few_step=FewStep(**config.few_step),
    )
    pattern, programs = config.pattern, _programs(config, model, loss)
    if not all(0 <= which < len(programs) for which in pattern):
        raise MirageError(
            f"pattern={pattern} must be numbers below {len(programs)}, one for each of "
            "the sizes and of the modes of the roll-outs"
        )
    # What no step uses need not be compiled.
    used = sorted(set(pattern))
    return Stage(
        settings,
        model,
        params,
        data,
        names,
        [programs[which] for which in used],
        tuple(used.index(which) for which in pattern),
    )


def _data(
    config: config_dict.ConfigDict, codec_params: Any
) -> tuple[DenoiserData, tuple[str, ...]]:
    styler = load_styler(config.styler) if config.styler else None
    store, pairs = _pictures(config)
    named = tuple(name for name in config.styles.split(",") if name)
    only = repeated_looks(styler, named, config.looks)
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


def _programs(
    config: config_dict.ConfigDict, model: ModelConfig, loss: DenoiserLoss
) -> list[Program]:
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
        Program(
            f"clips_{batch.size}",
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
    for mode in map(parse_mode, settings.modes.split(",") if settings.modes else ()):
        if mode.free:
            raise MirageError(
                f"rollout.modes={settings.modes}: write commit/steps; source_dropped "
                "is the share of clips whose source goes"
            )
        rollout = RollOut(
            commit=mode.commit,
            steps=mode.steps,
            opening=settings.opening,
            closing=settings.closing,
            anchored=settings.anchored,
            together=settings.together,
        )
        one = make_rollout_loss(model, streams, loss, rollout)
        programs.append(Program(f"{rollout.name}_{streams.size}", one, 1, None))
    return programs
