"""The smallest model with noise everywhere, for tests of scripts.

Fresh models start with zeros that hide the history from the output.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirage_jax.codec import init_codec
from mirage_jax.config import model_config
from mirage_jax.denoiser import init_denoiser
from mirage_jax.weights import save_weights

CONFIG = model_config("test")


def noisy_params() -> dict[str, Any]:
    """{"codec": ..., "denoiser": ...}, float32."""
    codec_key, denoiser_key = jax.random.split(jax.random.key(0))
    params = {
        "codec": init_codec(codec_key, CONFIG.codec),
        "denoiser": init_denoiser(denoiser_key, CONFIG),
    }
    random = np.random.default_rng(0)

    def stir(leaf: Any) -> np.ndarray:
        noise = random.normal(0, 0.05, leaf.shape).astype(np.float32)
        return np.asarray(leaf) + noise

    return jax.tree.map(stir, params)


def save_noisy_model(folder: Path, params: dict[str, Any]) -> None:
    """Writes the folder of a model."""
    for name in ("codec", "denoiser"):
        path = folder / f"{name}.safetensors"
        save_weights(path, params[name], getattr(CONFIG, name))
