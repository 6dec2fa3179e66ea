"""Train the style network on the paintings; all local devices share the batch.

    python -m experiments.train_styler --config=configs/train_styler.py \
        --config.train.minutes=1.25

Needs a folder from experiments/prepare_data.py, the paintings and the VGG weights.
Writes checkpoints, curves and picture grids into `workdir`, and the averaged weights
as float16 to `output`. The same command goes on with a run that was stopped.
`--config.data=synthetic --config.sizes="(64,)"` is a smoke run.
"""

import functools
import time

import jax
import jax.numpy as jnp
from absl import app
from ml_collections import ConfigDict, config_flags

from experiments.command import command
from mirage_jax.data.store import load_store, synthetic_store
from mirage_jax.errors import MirageError
from mirage_jax.styler import StylerConfig, init_styler, save_styler
from mirage_jax.training.loop import train
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.styler import (
    StylerData,
    StylerLoss,
    load_grams,
    make_styler_loss,
    picture_grid,
)
from mirage_jax.training.vgg import load_vgg

CONFIG = config_flags.DEFINE_config_file("config", "configs/train_styler.py")


def run(config: ConfigDict) -> None:
    """Trains as the config says and writes the weights."""
    sizes, counts = tuple(config.sizes), tuple(config.pictures_per_style)
    if not sizes or len(sizes) != len(counts) or any(s % 32 or s < 64 for s in sizes):
        raise MirageError(
            f"sizes={sizes} and pictures_per_style={counts}: give as many counts as "
            "sizes, and sizes that are multiples of 32 from 64"
        )
    weights, train_config = StylerLoss(**config.loss), TrainConfig(**config.train)
    vgg = load_vgg(config.vgg)
    grams = {str(size): load_grams(vgg, config.paintings, size) for size in sizes}
    dtype = jnp.dtype(config.dtype)
    losses = [
        make_styler_loss(size, count, weights, dtype)
        for size, count in zip(sizes, counts, strict=True)
    ]
    styler_config = StylerConfig()
    if config.data == "synthetic":
        store = synthetic_store(jax.random.key(train_config.seed))
    else:
        store = load_store(config.data)
    started = time.monotonic()
    state = train(
        config.workdir,
        train_config,
        jax.jit(init_styler, static_argnums=1)(
            jax.random.key(train_config.seed), styler_config
        ),
        losses,
        lambda step: step % len(losses),
        StylerData(store, vgg, grams),
        pictures=functools.partial(picture_grid, size=max(sizes)),
        restore=config.restore,
        samples=[len(styler_config.styles) * count for count in counts],
    )
    save_styler(config.output, state.ema, styler_config)
    seconds = time.monotonic() - started
    print(f"{config.output}: {int(state.step)} steps, {seconds:.0f} s in all")


main = command("train_styler", lambda: run(CONFIG.value))

if __name__ == "__main__":
    app.run(main)
