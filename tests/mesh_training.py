"""A training of the smallest model on whatever mesh and processes, for the tests.

Its one argument is a JSON object: workdir, data and fsdp of the mesh, and, if wanted,
remat and fields of HostsConfig and TrainConfig.
"""

import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import toy_model

from mirage_jax.config import MODELS
from mirage_jax.denoiser import denoise_clip, init_denoiser
from mirage_jax.training import mesh as meshes
from mirage_jax.training.hosts import HostsConfig, join
from mirage_jax.training.loop import train
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.work import clip_work

MODEL = MODELS["test"]


def fresh() -> Any:
    """Parameters that were not compiled for."""
    shapes = jax.eval_shape(lambda: init_denoiser(jax.random.key(0), MODEL))
    return toy_model.lively(shapes)


def loss(
    params: Any, key: jax.Array, data: Any, step: jax.Array, remat: str = "none"
) -> Any:
    clips, frames, channels = 2, 3, MODEL.codec.channels
    keys = jax.random.split(key, 3)
    shape = (clips, frames, 2, 2, channels)
    clean = data["latents"][jax.random.randint(keys[0], (clips,), 0, 8)]
    tau = jax.random.uniform(keys[1], (clips, frames))
    noise = jax.random.normal(keys[2], shape)
    part = tau[:, :, None, None, None]
    found = denoise_clip(
        params,
        MODEL,
        part * clean + (1 - part) * noise,
        0.5 * clean,
        jnp.ones((clips, frames), bool),
        tau,
        jnp.ones((clips, frames)),
        data["prompts"][:clips],
        jnp.zeros(clips, bool),
        remat=remat,
    )
    return jnp.square(found - clean).mean(), {}


def main(settings: dict[str, Any]) -> None:
    # Programs in a queue take the threads that a gather's other half needs: on a busy
    # machine of few cores that is a deadlock.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    hosts = ("coordinator", "processes", "process")
    join(HostsConfig(**{k: settings.pop(k) for k in hosts if k in settings}))
    # Even the arrays of so small a model are to be split.
    meshes.SMALL = 64
    mesh = meshes.make_mesh(
        meshes.MeshConfig(settings.pop("data"), settings.pop("fsdp"))
    )
    workdir, remat = settings.pop("workdir"), settings.pop("remat", "none")
    config = TrainConfig(warmup_steps=1, log_every=1, picture_every=0, **settings)
    keys = jax.random.split(jax.random.key(3), 2)
    data = {
        "latents": jax.random.normal(keys[0], (8, 3, 2, 2, MODEL.codec.channels)),
        "prompts": jax.random.normal(keys[1], (2, 384)) / 384**0.5,
    }
    state = train(
        workdir,
        config,
        fresh(),
        [functools.partial(loss, remat=remat)],
        lambda step: 0,
        data,
        mesh=mesh,
        samples=[2],
        work=[clip_work(MODEL, 64, 3)],
    )
    print("trained to step", int(state.step))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
