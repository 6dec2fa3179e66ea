"""The moving picture of the README, and the script that makes it."""

import importlib
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

from mirage_jax.errors import MirageError

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "mirage_jax/assets/big_buck_bunny.mp4"


def made(tmp_path, *arguments):
    import experiments.demo_picture as script

    script = importlib.reload(script)  # flag names are shared among scripts
    out = tmp_path / "moving.webp"
    flags.FLAGS(["demo_picture", f"--video={CLIP}", f"--out={out}", *arguments])
    assert not script.run()
    return out


def test_the_picture_moves_in_the_time_of_its_clip(tmp_path):
    with Image.open(made(tmp_path, "--width=32", "--every=24")) as picture:
        assert picture.size == (32, 32)
        shown = []
        for number in range(2):
            picture.seek(number)
            picture.load()
            shown.append(picture.convert("RGB"))
        assert picture.info["duration"] == pytest.approx(1000, abs=2)  # 24 a second
    assert shown[0].tobytes() != shown[1].tobytes()


def test_a_picture_of_one_frame_is_refused(tmp_path):
    with pytest.raises(MirageError, match="--every=100000"):
        made(tmp_path, "--every=100000")


def test_the_one_of_the_readme_is_small_enough_for_the_repository():
    assert (ROOT / "docs/pictures/demo.webp").stat().st_size < 90_000
