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

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from ml_collections import config_dict, config_flags

from experiments.command import command
from experiments.denoiser_stage import load_stage
from mirage_jax import codec
from mirage_jax.config import ModelConfig
from mirage_jax.denoiser import denoise_clip
from mirage_jax.flow import draw_noise
from mirage_jax.profiling import Profile
from mirage_jax.training.clips import (
    ClipBatch,
    DenoiserData,
    sample_pairs_of_styles,
)
from mirage_jax.training.hosts import HostsConfig, join, leads
from mirage_jax.training.loop import train
from mirage_jax.training.mesh import MeshConfig, make_mesh
from mirage_jax.training.prompts import (
    PromptAugmentation,
    sample_prompts,
)
from mirage_jax.weights import save_weights

_CONFIG = config_flags.DEFINE_config_file("config", "configs/train_denoiser.py")

_PICTURED_FRAMES = (0, -1)  # of each style's clip
_PLAIN_WORDING = PromptAugmentation(mix=0.0, noise=0.0)


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
            draw_noise(key, latent.shape, model.denoiser.noise_offset),
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


def run(config: config_dict.ConfigDict) -> None:
    """One stage; raises MirageError for what the user can cure."""
    join(HostsConfig(**config.hosts))
    mesh = make_mesh(MeshConfig(**config.mesh))
    profile = Profile(config.profile_dir, "step")
    stage = load_stage(config)
    state = train(
        config.workdir,
        stage.settings,
        stage.params,
        [program.loss for program in stage.programs],
        lambda step: stage.pattern[step % len(stage.pattern)],
        stage.data,
        pictures=lambda ema, data, key: _picture(
            ema, data, key, stage.model, max(config.sizes)
        ),
        restore=config.restore,
        profile=profile,
        mesh=mesh,
        samples=[len(stage.styles) * program.draws for program in stage.programs],
        work=[program.work for program in stage.programs],
    )
    if not leads():
        return
    path = pathlib.Path(config.workdir) / "denoiser.safetensors"
    digest = save_weights(path, jax.device_get(state.ema), stage.model.denoiser)
    print(f"{path}: step {int(state.step)}, sha256 {digest[:16]}")


main = command("train_denoiser", lambda: run(_CONFIG.value))

if __name__ == "__main__":
    app.run(main)
