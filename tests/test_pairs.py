"""Users' own pairs: found, refused where they do not match, drawn in step."""

import jax
import numpy as np
import pytest
from PIL import Image

from mirage_jax.data import pairs
from mirage_jax.data.prepare import Settings, find_pairs, prepare_source
from mirage_jax.errors import MirageError

SETTINGS = Settings(frame_size=(64, 80))


def save_picture(path, seed, size=(96, 72)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    picture = np.asarray(small.resize(size, Image.Resampling.BICUBIC))
    if path.parent.name == "styled":
        picture = 255 - picture
    Image.fromarray(picture).save(path)


@pytest.fixture
def folder(tmp_path):
    """A style of two picture pairs; the styled side is the negative."""
    for side in ("source", "styled"):
        for seed in range(2):
            save_picture(tmp_path / "negative" / side / f"{seed}.png", seed)
    (tmp_path / "negative" / "prompts.txt").write_text("a negative\n\nlike a film \n")
    return tmp_path / "negative"


def store(lengths=(12, 1, 5), styles=(0, 0, 1)):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (sum(lengths), 16, 20, 3), np.uint8)
    return pairs.PairStore(
        source=source,
        styled=255 - source,
        clip_start=np.cumsum([0, *lengths[:-1]]).astype(np.int32),
        clip_length=np.array(lengths, np.int32),
        clip_style=np.array(styles, np.int32),
        styles=("a", "b"),
    )


@jax.jit
def draw(store, key, style=None):
    return pairs.sample_pairs(store, key, 16, 4, (16, 24), style)


def test_both_sides_move_together():
    source, styled = draw(store(), jax.random.key(1))
    assert source.shape == styled.shape == (16, 4, 16, 24, 3)
    np.testing.assert_allclose(styled, 1.0 - source, atol=1e-5)
    assert float(np.abs(np.diff(source, axis=1)).mean()) > 0.01


def test_same_key_same_pairs():
    first, again = (draw(store(), jax.random.key(2)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])


def test_one_style_alone_can_be_drawn():
    shades = store(lengths=(6, 6, 6))
    shades = shades.replace(
        source=np.repeat(np.array([10, 20, 200], np.uint8), 6)[:, None, None, None]
        * np.ones((1, 16, 20, 3), np.uint8)
    )
    means = [
        np.asarray(draw(shades, jax.random.key(3), s)[0]).mean((1, 2, 3, 4))
        for s in (0, 1)
    ]
    assert (means[0] < 0.1).all()
    assert (means[1] > 0.7).all()


def test_pictures_of_a_folder_keep_in_step(folder, tmp_path):
    sources, prompts = find_pairs(folder)
    assert prompts == ["a negative", "like a film"]
    assert [(s.name, s.style) for s in sources] == [
        ("0", "negative"),
        ("1", "negative"),
    ]
    record = prepare_source(sources[0], SETTINGS, tmp_path)
    assert record["frames"] == 1
    source, styled = (
        np.load(tmp_path / record[side][0]["file"]).astype(int)
        for side in ("source", "styled")
    )
    assert source.shape == (1, 64, 80, 3)
    assert np.abs(source + styled - 255).max() <= 1


def test_a_missing_side_is_named(folder):
    (folder / "styled").rename(folder / "other")
    with pytest.raises(MirageError, match="no folder .*styled"):
        find_pairs(folder)


def test_a_file_without_twin_is_named(folder):
    (folder / "styled" / "1.png").unlink()
    with pytest.raises(MirageError, match=r"source/1 has no twin in .*styled"):
        find_pairs(folder)


def test_two_files_of_one_name_are_refused(folder):
    save_picture(folder / "source" / "1.bmp", 1)
    with pytest.raises(MirageError, match="two files named"):
        find_pairs(folder)


@pytest.mark.parametrize("text", [None, "", " \n\n"])
def test_missing_prompts_are_named(folder, text):
    path = folder / "prompts.txt"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(MirageError, match=r"no prompts in .*prompts\.txt"):
        find_pairs(folder)


def test_different_sizes_are_named(folder, tmp_path):
    save_picture(folder / "styled" / "0.png", 0, size=(96, 80))
    with pytest.raises(MirageError, match=r"negative/0: height and width \(72, 96\)"):
        prepare_source(find_pairs(folder)[0][0], SETTINGS, tmp_path)


def test_an_unreadable_side_is_named(folder, tmp_path):
    (folder / "styled" / "0.png").write_bytes(b"garbage")
    with pytest.raises(MirageError, match=r"cannot read .*styled/0\.png"):
        prepare_source(find_pairs(folder)[0][0], SETTINGS, tmp_path)
