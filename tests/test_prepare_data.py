"""Preparing data: the same bytes again, resumed after a stop, bad files reported."""

import hashlib
import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from experiments.prepare_data import prepare_shards
from mirage_jax.data import decode, prepare, prompt_table
from mirage_jax.data.pairs import load_pairs
from mirage_jax.data.prepare import Settings
from mirage_jax.data.store import load_store
from mirage_jax.errors import MirageError

SETTINGS = Settings(frame_size=(64, 80), photo_size=64)


def write_clip(
    path: Path, frames: int, shade: int = 0, size: tuple[int, int] = (96, 72)
) -> None:
    """Frame t is grey, 4 * t + shade, so that frames can be told apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for t in range(frames):
            image = np.full((size[1], size[0], 3), (4 * t + shade) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_photo(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two clips, one of them in a folder of its own; a long and a square picture."""
    write_clip(tmp_path / "clips" / "b.mp4", 12)
    write_clip(tmp_path / "clips" / "deep" / "a.mkv", 9, shade=2)
    write_photo(tmp_path / "photos" / "long.png", (160, 80))
    write_photo(tmp_path / "photos" / "square.png", (80, 80), 1)
    return {"clip": [tmp_path / "clips"], "photo": [tmp_path / "photos"]}


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_the_same_files_give_the_same_bytes(folders, tmp_path):
    prepare_shards(folders, SETTINGS, tmp_path / "one", workers=1)
    moved = {
        kind: [shutil.copytree(f[0], tmp_path / "moved" / kind)]
        for kind, f in folders.items()
    }
    prepare_shards(moved, SETTINGS, tmp_path / "two", workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_the_store_holds_what_was_prepared(folders, tmp_path):
    prepare_shards(folders, SETTINGS, tmp_path / "out", workers=1)
    store = load_store(tmp_path / "out")
    assert store.frames.shape == (21, 64, 80, 3)
    assert store.photos.shape == (3, 64, 64, 3)
    assert store.clip_length.tolist() == [12, 9]
    assert store.clip_start.tolist() == [0, 12]
    assert store.clip_weight[0] > store.clip_weight[1] > 0
    assert [c["name"] for c in manifest(tmp_path / "out")["clips"]] == [
        "b.mp4",
        "deep/a.mkv",
    ]
    shade = store.frames.astype(float).mean((1, 2, 3))
    expected = [4 * t for t in range(12)] + [4 * t + 2 for t in range(9)]
    np.testing.assert_allclose(shade, expected, atol=2.5)


def test_a_long_clip_is_read_in_segments(folders, tmp_path, monkeypatch):
    prepare_shards(folders, SETTINGS, tmp_path / "whole", workers=1)
    monkeypatch.setattr(prepare, "_SEGMENT", 5)
    prepare_shards(folders, SETTINGS, tmp_path / "parts", workers=1)
    clip = manifest(tmp_path / "parts")["clips"][0]
    assert [s["pictures"] for s in clip["segments"]] == [5, 5, 2]
    np.testing.assert_array_equal(
        load_store(tmp_path / "parts").frames, load_store(tmp_path / "whole").frames
    )


def test_a_stopped_run_goes_on_where_it_was(folders, tmp_path, monkeypatch):
    out, decoded = tmp_path / "out", []
    real = decode.decode_clip

    def stop_in_the_second(path, *rest):
        decoded.append(path.name)
        for i, frame in enumerate(real(path, *rest)):
            if len(decoded) == 2 and i == 7:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(prepare, "_SEGMENT", 5)
    monkeypatch.setattr(decode, "decode_clip", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_shards(folders, SETTINGS, out, workers=1)
    assert not (out / "manifest.json").exists()
    prepare_shards(folders, SETTINGS, out, workers=1)
    assert decoded == ["b.mp4", "a.mkv", "a.mkv"]
    prepare_shards(folders, SETTINGS, out, workers=1)
    assert len(decoded) == 3
    monkeypatch.setattr(decode, "decode_clip", real)
    prepare_shards(folders, SETTINGS, tmp_path / "fresh", workers=1)
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_a_cut_shard_is_made_again(folders, tmp_path):
    out = tmp_path / "out"
    prepare_shards(folders, SETTINGS, out, workers=1)
    before = hashes(out)
    shard = out / manifest(out)["clips"][0]["segments"][0]["file"]
    shard.write_bytes(shard.read_bytes()[:1000])
    prepare_shards(folders, SETTINGS, out, workers=1)
    assert hashes(out) == before


def test_other_settings_make_other_shards(folders, tmp_path):
    out = tmp_path / "out"
    prepare_shards(folders, SETTINGS, out, workers=1)
    prepare_shards(folders, Settings((64, 64), 64), out, workers=1)
    assert load_store(out).frames.shape == (21, 64, 64, 3)


def test_bad_files_are_skipped_and_reported(folders, tmp_path, capsys):
    clips, photos = folders["clip"][0], folders["photo"][0]
    (clips / "garbage.mp4").write_bytes(b"no video " * 100)
    (clips / "empty.webm").write_bytes(b"")
    write_clip(clips / "one_frame.mp4", 1)
    shutil.copy(clips / "b.mp4", clips / "twin.mp4")
    (photos / "garbage.jpg").write_bytes(b"no picture")
    write_photo(photos / "tiny.png", (20, 20))
    (photos / "cut.png").write_bytes((photos / "long.png").read_bytes()[:20000])
    (photos / "notes.txt").write_text("not a picture, and not an error")
    prepare_shards(folders, SETTINGS, tmp_path / "out", workers=1)
    skipped = {s["path"]: s["reason"] for s in manifest(tmp_path / "out")["skipped"]}
    assert skipped.keys() == {
        "garbage.mp4",
        "empty.webm",
        "one_frame.mp4",
        "twin.mp4",
        "garbage.jpg",
        "tiny.png",
        "cut.png",
    }
    assert skipped["twin.mp4"] == "the same bytes as b.mp4"
    assert "20x20" in skipped["tiny.png"]
    assert all(skipped.values())
    printed = capsys.readouterr().out
    assert all(f"skipped {p}: {r}" in printed for p, r in skipped.items())
    store = load_store(tmp_path / "out")
    assert (len(store.frames), len(store.photos)) == (21, 3)


def test_a_clip_that_breaks_off_keeps_its_start(tmp_path, monkeypatch):
    write_clip(tmp_path / "clips" / "a.mp4", 12)
    real = decode.decode_clip

    def broken(*arguments):
        for i, frame in enumerate(real(*arguments)):
            if i == 7:
                raise decode.DecodeError("bits are missing")
            yield frame

    monkeypatch.setattr(decode, "decode_clip", broken)
    prepare_shards({"clip": [tmp_path / "clips"]}, SETTINGS, tmp_path / "out", 1)
    content = manifest(tmp_path / "out")
    assert content["clips"][0]["frames"] == 7
    assert "first 7 frames: bits are missing" in content["skipped"][0]["reason"]


def test_a_long_clip_gives_one_stretch(folders, tmp_path):
    starts = set()
    for seed in range(3):
        out = tmp_path / str(seed)
        settings = Settings((64, 80), 64, most_frames=4, seed=seed)
        prepare_shards(folders, settings, out, workers=1)
        store = load_store(out)
        assert store.clip_length.tolist() == [4, 4]
        shade = store.frames[:4].astype(float).mean((1, 2, 3))
        np.testing.assert_allclose(np.diff(shade), 4, atol=2)
        starts.add(round(shade[0]))
    assert len(starts) > 1


def test_wide_and_upright_clips_fill_the_frame(tmp_path):
    for name, size in (("wide", (160, 64)), ("upright", (64, 128))):
        write_clip(tmp_path / f"{name}.mp4", 3, shade=100, size=size)
        frame = next(decode.decode_clip(tmp_path / f"{name}.mp4", (64, 80)))
        assert frame.shape == (64, 80, 3)
        assert np.abs(frame.astype(int) - 100).max() < 8


@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        ("clip", lambda f: None, "no folder"),
        ("clip", lambda f: f.mkdir(), "no videos or pictures"),
        ("photo", lambda f: write_photo(f / "a.png", (9, 9)), "no file could be read"),
    ],
)
def test_nothing_to_prepare_is_an_error(tmp_path, kind, make, words):
    make(tmp_path / "in")
    with pytest.raises(MirageError, match=words):
        prepare_shards({kind: [tmp_path / "in"]}, SETTINGS, tmp_path / "out", 1)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_pairs_are_prepared_and_loaded(tmp_path, monkeypatch):
    style = tmp_path / "in" / "fog"
    for side, shade in (("source", 0), ("styled", 40)):
        write_clip(style / side / "walk.mp4", 6, shade)
    (style / "prompts.txt").write_text("in the fog\n")
    prepare_shards({"pair": [style]}, SETTINGS, tmp_path / "out", 1)
    store = load_pairs(tmp_path / "out")
    assert store.styles == ("fog",)
    assert store.source.shape == store.styled.shape == (6, 64, 80, 3)
    difference = store.styled.astype(int) - store.source
    np.testing.assert_allclose(difference, 40, atol=6)
    assert manifest(tmp_path / "out")["styles"][0]["prompts"] == ["in the fog"]


def test_pairs_of_different_length_are_an_error(tmp_path):
    style = tmp_path / "fog"
    write_clip(style / "source" / "walk.mp4", 6)
    write_clip(style / "styled" / "walk.mp4", 5)
    (style / "prompts.txt").write_text("in the fog\n")
    with pytest.raises(MirageError, match="fog/walk: frames 6 in source, 5 in styled"):
        prepare_shards({"pair": [style]}, SETTINGS, tmp_path / "out", 1)


def fake_encoder(texts):
    return np.array([[len(t), t.count("e"), 1.0] for t in texts], np.float32)


def test_prompt_table_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_table, "encode_text", fake_encoder)
    monkeypatch.setattr(
        prompt_table, "PROMPTS", {"oil": ("an oil", "paint it"), "ink": ("x", "y", "z")}
    )
    monkeypatch.setattr(prompt_table, "HELD_OUT_PROMPTS", {"oil": ("oily",)})
    written = prompt_table.write_prompts(tmp_path, {"fog": ["in the fog"]})
    table = prompt_table.load_prompts(tmp_path)
    assert table.style_names == written.style_names == ("oil", "ink", "fog")
    assert table.train_counts.tolist() == [2, 3, 1]
    assert table.held_out_counts.tolist() == [1, 0, 0]
    assert table.train_embeddings.shape == (3, 3, 3)
    assert table.train_texts[0].tolist() == ["an oil", "paint it", "an oil"]
    assert table.held_out_texts[:, 0].tolist() == ["oily", "x", "in the fog"]
    np.testing.assert_array_equal(
        table.train_embeddings[0], fake_encoder(table.train_texts[0])
    )


def test_prompt_table_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_table, "encode_text", fake_encoder)
    with pytest.raises(MirageError, match="prompts_only"):
        prompt_table.load_prompts(tmp_path)
    (tmp_path / "prompts.npz").write_bytes(b"garbage")
    with pytest.raises(MirageError, match="damaged"):
        prompt_table.load_prompts(tmp_path)
    name = next(iter(prompt_table.PROMPTS))
    with pytest.raises(MirageError, match="is shipped"):
        prompt_table.write_prompts(tmp_path, {name: ["mine"]})


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.prepare_data"]
    result = subprocess.run(
        [*command, f"--clips={tmp_path / 'none'}", f"--out={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines() == [
        f"prepare_data: no folder {tmp_path / 'none'}: give a folder that exists"
    ]
