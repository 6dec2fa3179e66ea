"""A stand-in for the model, a small real one, and settings for toy runs."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import render as render_config
from mirage_jax.codec import init_codec
from mirage_jax.config import MODELS
from mirage_jax.denoiser import init_denoiser
from mirage_jax.render import render
from mirage_jax.render_settings import RenderSettings
from mirage_jax.weights import Model

NO_MODEL = Model(MODELS["test"], {}, "0" * 64)


class Negative:
    """Stands in for a stream: the negative of the source, after `fail_at` an error."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None):
        self.calls: list[str] = []
        self.since_open = 0
        self.fail_at, self.error = fail_at, error

    def open(self, prompt, seed):
        self.calls.append(f"open {prompt[0]:g} {seed}")
        self.since_open = 0

    def set_prompt(self, prompt):
        self.calls.append(f"{self.since_open}: {prompt[0]:g}")

    def step(self, source):
        if self.since_open == self.fail_at:
            assert self.error is not None
            raise self.error
        self.since_open += 1
        return 255 - jax.numpy.asarray(source)


def encode(prompts):
    """Prompt -> its length, 384 times."""
    return np.array([[len(p)] * 384 for p in prompts], np.float32)


def settings(tmp_path: Path, **changes: Any) -> RenderSettings:
    values = render_config.get_config().to_dict()
    defaults = {
        "source": str(tmp_path / "source.mp4"),
        "out": str(tmp_path / "out"),
        "size": "64x96",
        "timing_seconds": 0.0,
    }
    return RenderSettings.from_values(values | defaults | changes)


def run(tmp_path, driver=None, **changes):
    return render(settings(tmp_path, **changes), NO_MODEL, driver or Negative(), encode)


def small_model() -> Model:
    """The test size with random weights, whatever the names of its tensors."""
    config, key = MODELS["test"], jax.random.key(0)
    shapes = {
        "codec": jax.eval_shape(lambda: init_codec(key, config.codec)),
        "denoiser": jax.eval_shape(lambda: init_denoiser(key, config)),
    }
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: random.normal(0, 0.2, s.shape).astype(np.float32), shapes
    )
    params["codec"]["statistics"] = jax.tree.map(
        np.ones_like, params["codec"]["statistics"]
    )
    return Model(config, params, "1" * 64)
