"""Toy clips of a few styles to train on, and the settings of the real training."""

import functools
import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import toy_model

from mirage_jax.data.pairs import PairStore
from mirage_jax.data.store import synthetic_store
from mirage_jax.training import clips
from mirage_jax.training.clips import ClipBatch, DenoiserData
from mirage_jax.training.history import HistoryAugmentation

ROOT = pathlib.Path(__file__).parent.parent
STYLES = ("sepia", "low_light", "signal_loss")
BATCH = ClipBatch(size=32, frames=4, anchor_probability=0.5, source_dropped=0.5)
CLEAN = HistoryAugmentation(probability=0.0, round_trip=0.0, own=0.0)


def pair_store() -> PairStore:
    """A clip of one colour, styled to another."""
    plain = lambda value: np.full((6, 48, 64, 3), value, np.uint8)  # noqa: E731
    return PairStore(
        source=plain(51),
        styled=plain(204),
        clip_start=np.zeros(1, np.int32),
        clip_length=np.full(1, 6, np.int32),
        clip_style=np.zeros(1, np.int32),
        styles=("mine",),
    )


@functools.cache
def data(with_pairs: bool = False, only: tuple[str, ...] = STYLES) -> DenoiserData:
    pairs = pair_store() if with_pairs else None
    names = clips.style_names(None, pairs, only)
    rng = np.random.default_rng(0)
    return DenoiserData(
        store=synthetic_store(jax.random.key(0)),
        codec=toy_model.params()["codec"],
        embeddings=jnp.asarray(rng.normal(size=(len(names), 3, 384)), jnp.float32),
        counts=jnp.asarray(1 + np.arange(len(names)) % 3, jnp.int32),
        pairs=pairs,
        only=only,
    )


def compiled(function: Any, *operands: Any) -> Any:
    lowered = jax.jit(function).lower(*operands)
    return lowered.compile()


def config_module() -> Any:
    path = ROOT / "configs" / "train_denoiser.py"
    spec = importlib.util.spec_from_file_location("train_denoiser_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
