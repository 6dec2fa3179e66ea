"""Training the denoiser: history, the losses, and the whole script."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_clips import BATCH, CLEAN, ROOT, compiled, config_module, data

from mirage_jax.config import DenoiserConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.flow import NoiseMix
from mirage_jax.training import denoiser as training
from mirage_jax.training.denoiser import DenoiserLoss
from mirage_jax.weights import load_weights, model_folder

MODEL = toy_model.MODEL
DIRTY = dataclasses.replace(CLEAN, probability=1.0, repeat=0.3, drop=0.3)


@pytest.mark.parametrize("stand_in", [False, True])
def test_a_styled_frame_may_stand_in_for_a_source(stand_in, monkeypatch):
    """By a model that gives back the source that it is given."""
    monkeypatch.setattr(
        training, "denoise_clip", lambda p, m, noisy, source, *_, **__: source
    )
    denoiser = dataclasses.replace(MODEL.denoiser, stand_in=stand_in)
    model = dataclasses.replace(MODEL, denoiser=denoiser)
    loss = DenoiserLoss(history=CLEAN, mix=NoiseMix(all_noise=1.0))
    errors = {}
    for dropped in (0.0, 1.0):
        batch = dataclasses.replace(BATCH, source_dropped=dropped)
        run = training.make_denoiser_loss(model, batch, loss, jnp.float32)
        operands: Any = ({}, jax.random.key(3), data(only=("sepia",)), jnp.int32(0))
        errors[dropped] = float(compiled(run, *operands)(*operands)[0])
    # Where the world stands still, the last styled frame with a source is the answer.
    assert (errors[1.0] < 0.8 * errors[0.0]) == stand_in


def test_an_error_that_stays_is_no_flicker():
    error = jnp.zeros((2, 3, 4, 4, 8)).at[0].set(0.7).at[1, 2].set(2.0)
    everywhere = jnp.ones((2, 3), bool)
    # One of four steps from frame to frame has a change, of 2.
    assert training.change_of_error(error, everywhere) == pytest.approx(1.0)
    first_alone = everywhere.at[1, 2].set(False)
    assert training.change_of_error(error, first_alone) == 0
    assert training.change_of_error(error, ~everywhere) == 0, "and not 0 / 0"


def test_a_share_of_the_clips_has_one_noise_for_all_frames(monkeypatch):
    """By a model that gives back what it is given: of pure noise the noise itself."""
    monkeypatch.setattr(training, "denoise_clip", lambda p, m, noisy, *_, **__: noisy)
    changes = {}
    for share in (0.0, 1.0):
        loss = DenoiserLoss(
            history=CLEAN, mix=NoiseMix(all_noise=1.0), steady=1.0, fixed_noise=share
        )
        run = training.make_denoiser_loss(MODEL, BATCH, loss, jnp.float32)
        operands: Any = ({}, jax.random.key(3), data(), jnp.int32(0))
        _, metrics = compiled(run, *operands)(*operands)
        changes[share] = float(metrics["steady_32"])
    assert changes[1.0] < 0.01, "what is left are the pictures, which hardly change"
    # Noise of two frames differs by twice its power, give or take for so few numbers.
    assert changes[0.0] == pytest.approx(2, rel=0.25)


def test_targets_stay_clean_when_history_does_not(monkeypatch):
    def echo(params, model, noisy, *rest, **named):
        return params * noisy

    monkeypatch.setattr(training, "denoise_clip", echo)
    frames_with_data = NoiseMix(0.0, 1.0)
    errors = {}
    for name, history in (("clean", CLEAN), ("dirty", DIRTY)):
        loss = DenoiserLoss(history=history, mix=frames_with_data)
        run = training.make_denoiser_loss(MODEL, BATCH, loss, jnp.float32)
        operands = jnp.float32(0), jax.random.key(3), data(), jnp.int32(0)
        program = compiled(run, *operands)
        for scale in (0.0, 1.0):
            value, _ = program(jnp.float32(scale), *operands[1:])
            errors[name, scale] = float(value)
    # Against a prediction of nothing the error is the target's own power.
    assert errors["clean", 0.0] == pytest.approx(errors["dirty", 0.0], rel=1e-6)
    assert errors["clean", 1.0] != pytest.approx(errors["dirty", 1.0], rel=1e-3)


def test_a_few_steps_on_one_batch_lower_the_loss():
    loss = DenoiserLoss(latent=1.0, pixel_l1=0.5, pixel_mse=0.5)
    run = training.make_denoiser_loss(MODEL, BATCH, loss, jnp.float32)

    def descend(params, key, data):
        (value, metrics), gradient = jax.value_and_grad(run, has_aux=True)(
            params, key, data, jnp.int32(0)
        )
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient)))
        params = jax.tree.map(lambda p, g: p - 0.05 * g / norm, params, gradient)
        return params, value, metrics

    shapes = jax.eval_shape(lambda: init_denoiser(jax.random.key(0), MODEL))
    params = toy_model.lively(shapes)
    key = jax.random.key(0)
    program = compiled(descend, params, key, data())
    values = []
    for _ in range(12):
        params, value, metrics = program(params, key, data())
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < 0.9 * values[0]
    names = {"latent_32", "pixel_l1_32", "pixel_mse_32", "one_step_32"}
    assert metrics.keys() == names
    assert all(np.isfinite(x) and x >= 0 for x in metrics.values())
    total = metrics["latent_32"] + 0.5 * (
        metrics["pixel_l1_32"] + metrics["pixel_mse_32"]
    )
    assert values[-1] == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize("decoded", [1, 2, 4])
def test_pixel_terms_see_evenly_spaced_frames_of_every_clip(decoded, monkeypatch):
    # Decoding gives back the latents' mean, and every frame has a value of its own.
    def decode(params, latents, config, dtype):
        flat = latents.mean((1, 2, 3)).reshape(-1, 1, 1, 1)
        return jnp.broadcast_to(flat, (len(latents), 32, 32, 3))

    monkeypatch.setattr(training.codec, "decode", decode)
    clips, frames = 3, 4
    values = jnp.arange(clips * frames, dtype=jnp.float32).reshape(clips, frames)
    predicted = values[:, :, None, None, None] * jnp.ones((1, 1, 2, 2, 8))
    targets = values[:, :, None, None, None] * jnp.ones((1, 1, 32, 32, 3))
    loss = DenoiserLoss(pixel_l1=1.0, decoded=decoded)

    def terms(predicted):
        return training.pixel_terms(
            data(), jax.random.key(4), predicted, targets, MODEL, loss, jnp.float32
        )

    assert terms(predicted)["pixel_l1"] == 0, "each frame is compared with its own"
    slope = jax.grad(lambda x: terms(x + 1)["pixel_l1"])(predicted)
    seen = np.asarray(jnp.abs(slope).sum((2, 3, 4)) > 0)
    assert (seen.sum(axis=1) == decoded).all()
    for row in seen:
        gaps = np.diff(np.flatnonzero(np.tile(row, 2)))
        assert set(gaps) == {frames // decoded}


def config_of(stage: str = "diffusion") -> Any:
    return config_module().get_config(stage)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model": "huge"}, "'huge'"),
        ({"styles": "sepja"}, "'sepja'"),
        ({"codec": "no/such.safetensors"}, "no/such.safetensors"),
        ({"init": "no/such.safetensors"}, "no/such.safetensors"),
        ({"styler": "no/such.safetensors"}, "no/such.safetensors"),
        ({"vgg": "no/such.npz"}, "no/such.npz"),
        ({"data": "no/such"}, "no/such"),
        ({"rollout": {"modes": "lazy/1"}}, "'lazy/1'"),
        ({"rollout": {"modes": "lagged/1,free/lagged/1"}}, "source_dropped"),
        ({"pattern": (0, 1)}, "below 1"),
    ],
)
def test_wrong_settings_are_one_line(change, named):
    from experiments.train_denoiser import run

    config = config_of()
    codec = str(model_folder("default") / "codec.safetensors")
    small = {"data": "synthetic", "model": "test", "codec": codec, "sizes": (32,)}
    config.update({**small, "pattern": (0,), **change})
    with pytest.raises(MirageError, match=named) as raised:
        run(config)
    assert "\n" not in str(raised.value)


def test_the_stages_have_the_same_settings():
    diffusion, pixel = config_of().to_dict(), config_of("pixel").to_dict()
    rollout = config_of("rollout").to_dict()
    assert diffusion.keys() == pixel.keys() == rollout.keys()
    assert pixel["loss"]["pixel_l1"] > 0 == diffusion["loss"]["pixel_l1"]
    assert rollout["rollout"]["modes"] and not pixel["rollout"]["modes"]
    for wrong in ("third", "rollout_third", "pixel_no_history"):
        with pytest.raises(ValueError, match=f"'{wrong}'"):
            config_of(wrong)


def test_an_ablation_changes_what_it_says_and_nothing_else():
    ablations = config_module().ABLATIONS
    left_out = {"no_history", "no_rollouts", "clean_commit", "no_anchor", "pairs_alone"}
    assert set(ablations) == left_out

    def flat(config):
        parts = {
            f"{part}.{name}": value
            for part in ("history", "rollout")
            for name, value in config[part].items()
        }
        return config.to_dict() | parts

    script = (ROOT / "scripts" / "train_ablations.sh").read_text()
    assert set(re.findall(r"rollout_(\w+)", script)) == set(ablations)
    whole = flat(config_of("rollout"))
    for name, changes in ablations.items():
        part = flat(config_of(f"rollout_{name}"))
        assert part.pop("workdir") == f"runs/denoiser_rollout_{name}"
        changed = {key for key, value in part.items() if value != whole[key]}
        assert changed - {"history", "rollout"} == set(changes)


@pytest.mark.slow
def test_the_script_trains_on_roll_outs_and_writes(tmp_path):
    settings = {
        "data": "synthetic",
        "codec": "",
        "model": "test",
        "styles": "sepia,low_light",
        "sizes": "32,",
        "pattern": "1,",
        "frames": "3",
        "rollout.modes": "lagged/1",
        "rollout.frames": "4",
        "rollout.opening": "0",
        "rollout.closing": "2",
        "minutes": "0.0",
        "steps": "4",
        "log_every": "2",
        "picture_every": "0",  # the tutorial of own styles draws them
        "workdir": str(tmp_path),
    }
    command = [sys.executable, "-m", "experiments.train_denoiser"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "denoiser.safetensors: step 4" in result.stdout
    init = functools.partial(_init, jax.random.key(0))
    path = tmp_path / "denoiser.safetensors"
    trained, config, _ = load_weights(path, DenoiserConfig, init)
    wanted = {"stand_in": True, "noise_offset": 0.5}  # whatever the old ones were
    assert config == dataclasses.replace(MODEL.denoiser, **wanted)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trained))
    assert trained["head"]["Dense_0"]["kernel"].any(), "the head has left zero"
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    curves = json.loads(lines[-1]).keys()
    assert {"loss", "latent_lagged_1_32", "last_lagged_1_32"} <= curves


def _init(key, config):
    return init_denoiser(key, dataclasses.replace(MODEL, denoiser=config))
