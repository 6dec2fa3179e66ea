"""The pictures on the page's buttons: one for each style, and the script of them."""

import importlib
import itertools
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image
from render_fakes import small_model

import mirage_jax.live
from mirage_jax.live.presets import presets

STRIP = Path(mirage_jax.live.__file__).parent / "page" / "styles.jpg"


def squares(path):
    with Image.open(path) as strip:
        side, height = strip.size
        rows = height // side
        assert rows * side == height
        return np.asarray(strip, np.float32).reshape(rows, side, side, 3)


def test_every_style_has_a_picture_of_its_own():
    found = squares(STRIP)
    assert len(found) == len(presets())
    for one, other in itertools.combinations(found, 2):
        assert np.abs(one - other).mean() > 3


def test_the_script_writes_a_square_for_every_style(tmp_path, monkeypatch):
    import experiments.style_thumbnails as script

    script = importlib.reload(script)  # flag names are shared among scripts
    monkeypatch.setattr(script, "load_model", lambda name: small_model())
    out = tmp_path / "styles.jpg"
    flags.FLAGS(
        ["style_thumbnails", "--size=64", "--side=16", "--frames=1", f"--out={out}"]
    )
    assert not script.run()
    found = squares(out)
    assert found.shape == (len(presets()), 16, 16, 3)
