"""The demo: `python main.py --config configs/demo.py`.

Five seconds of Big Buck Bunny that come with the package; the first two on a CPU.
"""

import pathlib

from ml_collections import config_dict

import mirage_jax
from configs import render

_ASSETS = pathlib.Path(mirage_jax.__file__).parent / "assets"


def get_config() -> config_dict.ConfigDict:
    c = render.get_config()
    c.source = str(_ASSETS / "big_buck_bunny.mp4")
    c.out = "outputs/demo"
    c.prompt = "a swirling starry night, painted with thick brush strokes"
    c.cpu_max_frames = 48
    c.timing_seconds = 2.0
    return c
