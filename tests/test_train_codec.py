"""Training the codec: batches, loss, statistics, and the script from end to end."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.codec import decode_raw, encode_raw, init_codec
from mirage_jax.config import MODELS
from mirage_jax.data.store import FrameStore
from mirage_jax.errors import MirageError
from mirage_jax.training import codec as training
from mirage_jax.training.codec import Batch, CodecData, LossWeights
from mirage_jax.training.vgg import perceptual_loss, random_vgg
from mirage_jax.weights import load_codec

CODEC = MODELS["test"].codec
ROOT = pathlib.Path(__file__).parent.parent


def store(frames: int = 12, photos: int = 2) -> FrameStore:
    clips = min(frames, 1)
    return FrameStore(
        frames=np.zeros((frames, 48, 64, 3), np.uint8),
        clip_start=np.zeros(clips, np.int32),
        clip_length=np.full(clips, frames, np.int32),
        clip_weight=np.ones(clips, np.float32),
        photos=np.zeros((photos, 64, 64, 3), np.uint8),
    )


@functools.cache
def params() -> dict:
    init = jax.jit(init_codec, static_argnums=1)
    return jax.device_get(init(jax.random.key(0), CODEC))


@pytest.mark.parametrize(
    "frames, photos, batch",
    [(12, 2, Batch(64, 5, 3)), (0, 2, Batch(32, 2, 1)), (12, 0, Batch(32, 2, 1))],
)
def test_a_batch_has_the_pictures_it_promises(frames, photos, batch):
    data = CodecData(store(frames, photos))
    draw = functools.partial(training.sample_batch, batch=batch)
    found = jax.eval_shape(draw, data, jax.random.key(0))
    # Ten styles of one frame, and three with memory that give pairs of frames.
    count = batch.raw + 10 * batch.per_style + 3 * 2 * max(batch.per_style // 2, 1)
    assert batch.pictures(data.styles()) == count
    assert found.shape == (count, batch.size, batch.size, 3)
    assert found.dtype == jnp.float32


def test_the_styles_can_be_chosen():
    data = CodecData(store(), only=("sepia", "low_light"))
    assert [style.name for style in data.styles()] == ["sepia", "low_light"]
    assert Batch(64, 5, 4).pictures(data.styles()) == 5 + 4 + 4
    with pytest.raises(MirageError, match="'sepja'"):
        CodecData(store(), only=("sepja",)).styles()


@pytest.mark.parametrize("bad", [(48, 1, 1), (0, 1, 1), (64, 0, 1), (64, 1, 0)])
def test_an_impossible_batch_is_refused(bad):
    with pytest.raises(MirageError, match=f"size={bad[0]}"):
        Batch(*bad)


def test_the_loss_is_the_weighted_sum_of_what_it_says():
    weights = LossWeights(noise=0.0)
    images = jax.random.uniform(jax.random.key(1), (5, 32, 32, 3))
    vgg = random_vgg(jax.random.key(2), (4, 4, 4, 4))
    key = jax.random.key(3)

    @jax.jit
    def both(params):
        function = functools.partial(
            training.codec_loss, config=CODEC, weights=weights, dtype=jnp.float32
        )
        grad = jax.value_and_grad(function, has_aux=True)
        latents = encode_raw(params, images, CODEC)
        found = decode_raw(params, latents, CODEC)
        seen = perceptual_loss(vgg, found[::4], images[::4], jnp.float32)
        return grad(params, key, images, vgg=vgg), latents, found, seen

    ((loss, terms), gradient), latents, found, seen = jax.device_get(both(params()))
    error = found - np.asarray(images)
    expected = {
        "l1": np.abs(error).mean(),
        "mse": np.square(error).mean(),
        "gradient": np.abs(np.diff(error, axis=1)).mean()
        + np.abs(np.diff(error, axis=2)).mean(),
        "latent": np.square(latents).mean(),
        "perceptual": seen,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    total = sum(getattr(weights, name) * value for name, value in expected.items())
    np.testing.assert_allclose(loss, total, rtol=1e-4)
    clipped = np.square(np.clip(found, 0, 1) - np.asarray(images)).mean((1, 2, 3))
    np.testing.assert_allclose(terms["psnr"], (-10 * np.log10(clipped)).mean(), 1e-4)
    # Encoder and decoder learn; the statistics are measured later.
    for part in ("encoder", "decoder"):
        assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient[part]))
    assert not any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient["statistics"]))


def test_statistics_are_those_of_all_cells_together(monkeypatch):
    def draw(data, key, batch):
        shape = (batch.pictures(data.styles()), batch.size, batch.size, 3)
        return jax.random.uniform(key, shape) * (0.5 if batch.size == 32 else 1.0)

    monkeypatch.setattr(training, "sample_batch", draw)
    data = CodecData(store(), only=("sepia",))
    batches = [(Batch(32, 1, 1), 2), (Batch(64, 1, 2), 1)]
    key = jax.random.key(5)
    found = training.measure_statistics(
        params(), key, data, CODEC, batches, jnp.float32
    )
    cells = []
    for number, (batch, count) in enumerate(batches):
        for one in jax.random.split(jax.random.fold_in(key, number), count):
            images = draw(data, one, batch)
            cells.append(encode_raw(params(), images, CODEC).reshape(-1, 8))
    together = np.concatenate(cells)
    np.testing.assert_allclose(found["mean"], together.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["spread"], together.std(0), rtol=1e-3)
    assert found["mean"].dtype == found["spread"].dtype == np.float32


def test_pictures_show_what_the_codec_gives_back():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    found, quality = training.reconstruct(params(), images, CODEC, jnp.float32)
    error = (found.astype(np.float64) - images) / 255
    expected = -10 * np.log10(np.square(error).mean((1, 2, 3)))
    np.testing.assert_allclose(quality, expected, rtol=1e-4)
    rows = training.picture_rows(params(), images, CODEC)
    assert rows.shape == (64, 96, 3) and rows.dtype == np.uint8
    np.testing.assert_array_equal(rows[:32, 32:64], images[1])


def smoke(workdir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    """The script at toy size."""
    settings = {
        "data": "synthetic",
        "model": "test",
        "sizes": "32,",
        "raw": "2,",
        "per_style": "1,",
        "pattern": "0,",
        "styles": "sepia,light_trails",
        "minutes": "0.0",
        "steps": "4",
        "log_every": "2",
        "statistics_batches": "2",
        "workdir": str(workdir),
    }
    command = [sys.executable, "-m", "experiments.train_codec"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    return subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
def test_the_script_trains_measures_and_writes(tmp_path):
    result = smoke(tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "step 4" in result.stderr
    assert "32 px  sepia" in result.stdout
    trained, config, _ = load_codec(tmp_path / "codec.safetensors")
    assert config == CODEC
    assert (trained["statistics"]["spread"] > 0).all()
    assert not np.allclose(trained["statistics"]["spread"], 1)
    results = json.loads((tmp_path / "codec.json").read_text())
    names = [result["name"] for result in results["results"]]
    assert names == ["psnr_codec/raw/32", "psnr_codec/sepia/32", "psnr_codec/styled/32"]
    assert results["setup"]["steps"] == 4
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert {"loss", "psnr_32", "l1_32"} <= json.loads(lines[-1]).keys()


@pytest.mark.parametrize(
    "flag, named",
    [
        ("--config.pattern=0,1", "pattern="),
        ("--config.raw=2,3", "raw="),
        ("--config.sizes=48,", "size=48"),
        ("--config.model=huge", "'huge'"),
        ("--config.vgg=no/such.npz", "no/such.npz"),
        ("--config.styler=no/such.safetensors", "no/such.safetensors"),
        ("--config.data=no/such", "no/such"),
    ],
)
def test_wrong_settings_are_one_line(flag, named):
    # In this process: starting seven interpreters would cost most of a minute.
    from experiments.train_codec import run

    path = ROOT / "configs" / "train_codec.py"
    spec = importlib.util.spec_from_file_location("train_codec_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    small = {"data": "synthetic", "model": "test", "sizes": (32,), "raw": (2,)}
    config.update({**small, "per_style": (1,), "pattern": (0,)})
    name, _, value = flag.removeprefix("--config.").partition("=")
    if isinstance(config[name], tuple):
        config[name] = tuple(int(number) for number in value.split(",") if number)
    else:
        config[name] = value
    with pytest.raises(MirageError, match=named) as raised:
        run(config)
    assert "\n" not in str(raised.value)
