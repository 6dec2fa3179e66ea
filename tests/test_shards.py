"""Shards and manifest: whole or absent, and clear words for what is wrong."""

import json

import numpy as np
import pytest

from mirage_jax.data import shards
from mirage_jax.data.store import load_store
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import StagedFile, remove_unfinished


def pictures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 4, 6, 3), np.uint8)


def test_shards_come_back_in_order(tmp_path):
    parts = [pictures(n, n) for n in (3, 1, 5)]
    listed: list[shards.Shard] = []
    for i, part in enumerate(parts):
        shards.save_array(tmp_path / f"{i}.npy", part)
        listed.append({"file": f"{i}.npy", "pictures": len(part)})
    np.testing.assert_array_equal(
        shards.read_shards(tmp_path, listed, (4, 6)), np.concatenate(parts)
    )


def test_no_shards_are_no_pictures(tmp_path):
    assert shards.read_shards(tmp_path, [], (4, 6)).shape == (0, 4, 6, 3)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    shards.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        shards.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    shards.save_array(tmp_path / "clips-0.npy", pictures(1))
    StagedFile(tmp_path / "clips-1.npy")  # never published
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["clips-0.npy"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pictures(2)[:, :3], "the manifest says"),
        (pictures(3), "the manifest says"),
        (pictures(2).astype(np.float32), "the manifest says"),
        (b"garbage", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_shard_is_named(tmp_path, content, words):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(MirageError, match=words) as error:
        shards.read_shards(tmp_path, [{"file": "x.npy", "pictures": 2}], (4, 6))
    assert "x.npy" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "no training data"), ("{", "damaged"), ('{"version": 99}', "version 99")],
)
def test_a_wrong_manifest_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(MirageError, match=words):
        load_store(tmp_path)
