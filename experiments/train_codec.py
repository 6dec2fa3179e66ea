"""Train the per-frame codec and write it as safetensors.

    python -m experiments.train_codec --config=configs/train_codec.py \
        --config.data=runs/data --config.workdir=runs/codec --config.minutes=5

Trains on all local devices; started again, it goes on where it was. Writes
codec.safetensors (the running average of the weights, with the measured latent
statistics), codec.json (quality on pictures never trained on, by style and size),
checkpoints, pictures and TensorBoard events into the work folder.
`--config.data=synthetic --config.model=test` is a smoke run.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app
from jaxtyping import UInt8
from ml_collections import config_dict, config_flags

from experiments.command import command
from mirage_jax.codec import init_codec
from mirage_jax.config import CodecConfig, model_config
from mirage_jax.data.store import FrameStore, load_store, synthetic_store
from mirage_jax.errors import MirageError
from mirage_jax.profiling import Profile
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.styler import load_styler
from mirage_jax.training.codec import (
    Batch,
    CodecData,
    LossWeights,
    make_loss,
    measure_statistics,
    picture_rows,
    reconstruct,
    sample_pictures,
    style_all,
)
from mirage_jax.training.loop import train
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.vgg import load_vgg
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.reader import VideoReader
from mirage_jax.weights import load_codec, save_weights

_CONFIG = config_flags.DEFINE_config_file("config", "configs/train_codec.py")

_FRAMES_A_CLIP = 8


def _store(data: str, seed: int) -> FrameStore:
    if data == "synthetic":
        return synthetic_store(jax.random.key(seed))
    return load_store(data)


def _batches(config: config_dict.ConfigDict) -> list[Batch]:
    lengths = {len(config.sizes), len(config.raw), len(config.per_style)}
    if len(lengths) != 1 or not config.sizes:
        raise MirageError(
            f"sizes={config.sizes}, raw={config.raw} and per_style={config.per_style} "
            "must be equally long"
        )
    if not config.pattern or not set(config.pattern) <= set(range(len(config.sizes))):
        raise MirageError(
            f"pattern={config.pattern} must hold numbers from 0 to "
            f"{len(config.sizes) - 1}, one for each step in turn"
        )
    return [
        Batch(size, raw, per_style)
        for size, raw, per_style in zip(
            config.sizes, config.raw, config.per_style, strict=True
        )
    ]


def _held_out(folder: pathlib.Path) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Evenly spaced frames of every clip in a folder."""
    if not folder.is_dir():
        raise MirageError(f"held_out={folder} is no folder: give a folder of clips")
    pictures = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with VideoReader(path) as reader:
            stride = max((reader.info.frames or 1) // _FRAMES_A_CLIP, 1)
            frames = itertools.islice(reader, 0, stride * _FRAMES_A_CLIP, stride)
            pictures += [frame.image for frame in frames]
    if not pictures:
        raise MirageError(f"held_out={folder} is empty: give a folder of clips")
    return pictures


def _test_pictures(
    config: config_dict.ConfigDict, store: FrameStore, batches: Sequence[Batch]
) -> dict[int, UInt8[np.ndarray, "n size size 3"]]:
    """By size: held-out frames, or drawn training pictures where none are given."""
    sizes = {batch.size: batch.raw for batch in batches}
    if config.held_out:
        frames = _held_out(pathlib.Path(config.held_out))
        return {
            size: np.stack([fit_frame(frame, size, size) for frame in frames])
            for size in sizes
        }
    draw = jax.jit(sample_pictures, static_argnums=(2, 3))
    key = jax.random.key(config.seed + 1)
    return {
        size: np.round(255 * np.asarray(draw(store, key, count, size))).astype(np.uint8)
        for size, count in sizes.items()
    }


def _measure(
    params: Any, codec: CodecConfig, images: np.ndarray, size: int, data: CodecData
) -> list[Result]:
    """Mean PSNR of the pictures as they are and in every style, and print it."""
    styled = style_all(images, data)
    pictures = np.concatenate([images, *styled.values()])
    _, quality = reconstruct(params, pictures, codec)
    means = quality.reshape(-1, len(images)).mean(1)
    rows = dict(zip(["raw", *styled], means, strict=True))
    if styled:
        rows["styled"] = means[1:].mean()
    for name, value in rows.items():
        print(f"{size:4} px  {name:15} {value:6.2f} dB")
    return [
        Result(f"psnr_codec/{name}/{size}", round(float(value), 3), "dB")
        for name, value in rows.items()
    ]


def run(config: config_dict.ConfigDict) -> None:
    """One training; raises MirageError for what the user can cure."""
    profile = Profile(config.profile_dir, "step")
    if config.init:
        params, codec, _ = load_codec(config.init)
    else:
        codec = model_config(config.model).codec
        key = jax.random.key(config.seed)
        params = jax.jit(init_codec, static_argnums=1)(key, codec)
    batches = _batches(config)
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = TrainConfig(**{k: v for k, v in config.items() if k in fields})
    weights = LossWeights(**config.loss)
    data = CodecData(
        store=_store(config.data, config.seed),
        styler=load_styler(config.styler) if config.styler else None,
        vgg=load_vgg(config.vgg) if config.vgg else None,
        only=tuple(name for name in config.styles.split(",") if name),
    )
    # Once over the bus; the training loop copies from device to device.
    data = jax.device_put(data, jax.local_devices()[0])
    workdir = pathlib.Path(config.workdir)
    tests = _test_pictures(config, data.store, batches)
    shown = tests[max(tests)][::4][:8]

    # Measured after training: neither decayed nor averaged before.
    del params["statistics"]
    styles = data.styles()
    state = train(
        workdir,
        settings,
        params,
        [make_loss(codec, batch, weights) for batch in batches],
        lambda step: config.pattern[step % len(config.pattern)],
        data,
        pictures=lambda ema, data, key: picture_rows(ema, shown, codec),
        restore=config.restore,
        profile=profile,
        samples=[batch.pictures(styles) for batch in batches],
    )
    draws = np.bincount(config.pattern, minlength=len(batches)) / len(config.pattern)
    counts = np.maximum(1, np.round(draws * config.statistics_batches)).astype(int)
    statistics = measure_statistics(
        state.ema,
        jax.random.key(config.seed + 2),
        data,
        codec,
        list(zip(batches, counts.tolist(), strict=True)),
    )
    trained = {**jax.device_get(state.ema), "statistics": statistics}
    path = workdir / "codec.safetensors"
    digest = save_weights(path, trained, codec)
    print(f"{path}: step {int(state.step)}, sha256 {digest[:16]}")
    spread = statistics["spread"]
    print(f"latent spread {spread.min():.2f} to {spread.max():.2f}")
    results = []
    for size, images in tests.items():
        results += _measure(trained, codec, images, size, data)
    setup = {
        **device_setup(),
        "config": config.to_dict(),
        "steps": int(state.step),
        "held_out": bool(config.held_out),
    }
    write_results(workdir / "codec.json", "experiments/train_codec.py", setup, results)


main = command("train_codec", lambda: run(_CONFIG.value))

if __name__ == "__main__":
    app.run(main)
