"""Clips for evaluation, and the grids of pictures that show it."""

import numpy as np
import pytest
from moving_blob import blob_clip, write_clip
from PIL import Image

from mirage_jax.errors import MirageError
from mirage_jax.evaluation import clips, pictures

SIDE = 64


def test_clips_are_spread_and_have_the_same_moments_at_every_size(tmp_path):
    write_clip(tmp_path / "long.mp4", blob_clip(40, 96))
    write_clip(tmp_path / "short.mp4", blob_clip(10, 96))
    found = clips.load_clips(tmp_path, [64, 32], length=16, segments=3)
    assert found.names == ("long:0", "long:24", "short:0")
    assert found.first_of_each_file() == (0, 2)
    assert found.frames[64].shape == (3, 16, 64, 64, 3)
    small = [
        np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BOX))
        for frame in found.frames[64][1]
    ]
    assert np.abs(np.stack(small).astype(int) - found.frames[32][1]).mean() < 3
    short = found.frames[32][2]  # 0 1 .. 9 8 ..
    np.testing.assert_array_equal(short[8], short[10])


def test_photographs_become_clips_of_the_same_view_at_every_size(tmp_path):
    Image.fromarray(blob_clip(1, 128)[0]).save(tmp_path / "photo.png")
    found = clips.photo_clips(tmp_path, [64, 32], length=4, seed=1)
    assert found.names == ("photo",) and found.frames[32].shape == (1, 4, 32, 32, 3)
    half = found.frames[64].reshape(1, 4, 32, 2, 32, 2, 3).mean(axis=(3, 5))
    assert np.abs(half - found.frames[32]).mean() < 4
    both = clips.join_clips(found, found)
    assert both.files == (0, 1) and both.frames[64].shape[0] == 2


def test_missing_clips_are_told_in_one_line(tmp_path):
    with pytest.raises(MirageError, match="no folder"):
        clips.load_clips(tmp_path / "none", [64], 16, 1)
    with pytest.raises(MirageError, match="holds no video"):
        clips.load_clips(tmp_path, [64], 16, 1)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(MirageError, match="broken.png"):
        clips.photo_clips(tmp_path, [64], 16, 0)


def test_to_and_fro_never_cuts():
    moments = clips.to_and_fro(8)
    np.testing.assert_array_equal(moments, [0, 1, 2, 3, 4, 3, 2, 1])
    with pytest.raises(ValueError, match="period=7"):
        clips.to_and_fro(7)


def test_grid_holds_its_pictures_and_stays_small(tmp_path):
    frame = blob_clip(1)[0]
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    rows = [("a", [frame, noise]), ("b_c", [noise, pictures.difference(frame, frame)])]
    grid = pictures.draw_grid(["one", "two"], rows, cell=SIDE)
    corner = np.asarray(grid)[20 : 20 + SIDE, 96 : 96 + SIDE]
    np.testing.assert_array_equal(corner, frame)
    assert (np.asarray(grid)[-SIDE - 4 : -4, -SIDE - 4 : -4] == 0).all()
    pictures.save_picture(tmp_path / "grid.webp", grid, limit=20_000)
    assert (tmp_path / "grid.webp").stat().st_size <= 20_000
    pictures.save_picture(tmp_path / "grid.png", grid)
    with pytest.raises(ValueError, match="too large"):
        pictures.save_picture(tmp_path / "tiny.webp", grid, limit=100)
    with pytest.raises(ValueError, match="do not fill"):
        pictures.draw_grid(["one"], rows)
