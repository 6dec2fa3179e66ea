"""Pack a trained codec and denoiser as the model that ships with the package.

    python -m experiments.export_model --codec=runs/codec/codec.safetensors \
        --denoiser=runs/denoiser_rollout/denoiser.safetensors \
        --styler=runs/styler/styler.safetensors --out=mirage_jax/models/default

Large kernels become int8 with a scale per output channel, the rest float16. Prints
the sizes of the files. `experiments/evaluate.py` on both folders says what that costs.
"""

from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from experiments.command import command
from mirage_jax.config import DenoiserConfig, ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.styler import StylerConfig, load_styler, save_styler
from mirage_jax.weights import load_codec, load_weights, save_weights, weight_files

_CODEC = flags.DEFINE_string("codec", None, "Codec weights.", required=True)
_DENOISER = flags.DEFINE_string("denoiser", None, "Denoiser weights.", required=True)
_STYLER = flags.DEFINE_string("styler", None, "Style network's weights, to keep along.")
_OUT = flags.DEFINE_string("out", None, "Folder of the model.", required=True)
_INT8 = flags.DEFINE_bool("int8", True, "Store large kernels as int8.")

# What meets pixels and latents first and last stays in 16 bits: small, and it matters.
_WIDE = ("encoder/Conv_0/", "stem/", "head/")
_LEAST_SIZE = 8192
_PART = 15 * 2**20  # git hosts dislike larger files


def to_int8(name: str, tensor: np.ndarray) -> bool:
    """Whether a tensor is stored as int8."""
    return (
        _INT8.value
        and name.endswith("kernel")
        and tensor.size >= _LEAST_SIZE
        and not name.startswith(_WIDE)
    )


def run() -> None:
    """Reads, checks and writes all files."""
    out = Path(_OUT.value)
    codec, codec_config, _ = load_codec(_CODEC.value)

    def init(config: DenoiserConfig) -> dict:
        return init_denoiser(jax.random.key(0), ModelConfig(codec_config, config))

    denoiser, denoiser_config, _ = load_weights(_DENOISER.value, DenoiserConfig, init)
    for name, tree, config in (
        ("codec", codec, codec_config),
        ("denoiser", denoiser, denoiser_config),
    ):
        path = out / f"{name}.safetensors"
        save_weights(
            path, tree, config, to_int8=to_int8, dtype="float16", part_bytes=_PART
        )
        for part in weight_files(path):
            print(f"{part}: {part.stat().st_size / 2**20:.2f} MiB")
    if _STYLER.value:
        path = out / "styler.safetensors"
        save_styler(path, load_styler(_STYLER.value), StylerConfig())
        print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


main = command("export_model", run)

if __name__ == "__main__":
    app.run(main)
