"""Models by name, for scripts that measure speed: trained weights, else random ones."""

import dataclasses
import runpy
from typing import Any

import jax

from experiments.random_model import random_params
from mirage_jax.config import MODELS, ModelConfig, model_config
from mirage_jax.errors import MirageError
from mirage_jax.weights import load_model, model_folder


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A model on the device.

    Attributes:
      config: its sizes.
      params: trained ones in float32, random ones as a bfloat16 stream holds them.
      sha256: of trained weights, 64 digits; None for random ones.
    """

    config: ModelConfig
    params: Any
    sha256: str | None

    @property
    def weights(self) -> str:
        """What they are, in words."""
        if self.sha256 is None:
            return "random weights, for timing only"
        return f"weights {self.sha256[:12]}"


def load_named(name: str) -> NamedModel:
    """A named size, or a folder with weights.

    Raises:
      MirageError: neither a size nor a folder that can be read.
    """
    if name not in MODELS or model_folder(name).is_dir():
        model = load_model(name)
        return NamedModel(model.config, jax.device_put(model.params), model.sha256)
    config = model_config(name)
    # This generator compiles in a quarter of the default one's time.
    key = jax.random.key(0, impl="unsafe_rbg")
    params = random_params(key, config, "bfloat16")
    return NamedModel(config, params, None)


def size_settings(path: str, flag: str) -> dict[str, Any]:
    """Values of a config such as configs/lsd_880m.py, which is plain Python.

    Args:
      path: of the file.
      flag: that named it, for the error.

    Raises:
      MirageError: it is no config.
    """
    try:
        return dict(runpy.run_path(path)["get_config"]())
    except (OSError, KeyError) as error:
        raise MirageError(f"--{flag}={path} is no config ({error})") from error
