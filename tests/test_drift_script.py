"""Long streams of a model, and the script around them, with a toy model at 64x64."""

import importlib
import json
from functools import partial

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from moving_blob import blob_clip, write_clip
from toy_model import MODEL, SIDE, params, play, prompts, save_model, settings

from experiments import drift as script
from experiments import long_streams
from mirage_jax.config import TEXT_WIDTH
from mirage_jax.data.teachers import comparable_styles, find_style
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.clips import to_and_fro
from mirage_jax.evaluation.endless import Endless
from mirage_jax.evaluation.quality import Case
from mirage_jax.evaluation.streaming import round_trips, score
from mirage_jax.modes import Mode, parse_mode
from mirage_jax.results import read_results
from mirage_jax.weights import Model

PERIOD = 32
STYLES = ("sepia", "signal_loss")


@pytest.fixture(scope="module")
def endless():
    styles = [find_style(name, comparable_styles()) for name in STYLES]
    model = Model(MODEL, params(), "0" * 64)
    return Endless(model, settings(batch=2), styles, np.asarray(prompts(2)), PERIOD)


LOOPS = blob_clip(PERIOD // 2 + 1, SIDE)[to_and_fro(PERIOD)][None]


def test_modes_have_names():
    for text in ("merged/1", "lagged/2", "free/clean/4"):
        assert parse_mode(text).name == text
    assert parse_mode("free/lagged/1") == Mode("lagged", 1, free=True)
    for text in ("merged", "merged/3", "soft/1", "lagged/2/free", "a/free/merged/1"):
        with pytest.raises(MirageError, match="write commit/steps"):
            parse_mode(text)


def test_numbers_are_those_of_the_stream_itself(endless):
    """Over the seam of a loop, frame by frame, in a mode that feeds its output back."""
    cases, moments = [Case(0, 0), Case(1, 0)], (1, PERIOD + 3, 2 * PERIOD)
    sepia, lost = endless.run(
        parse_mode("lagged/1"), cases, LOOPS, 2 * PERIOD, moments=moments
    )
    # The second stream sees something else here and must not matter.
    places = np.arange(PERIOD + 3) % PERIOD
    clip = np.stack([LOOPS[0, places], LOOPS[0, places[::-1]]], axis=1)
    pictures, _, _ = play(settings(batch=2, commit="lagged"), clip)
    np.testing.assert_allclose(sepia.pictures[0], pictures[0, 0], atol=1)
    np.testing.assert_allclose(sepia.pictures[1], pictures[-1, 0], atol=1)
    for run in (sepia, lost):
        assert run.measured.psnr.shape == (2 * PERIOD,)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.measured))
    # Without a past the first frame is what the model makes of it in one shot.
    gain = sepia.measured.psnr - sepia.measured.forgetful
    assert abs(gain[0]) < 1e-3 < np.abs(gain[1:PERIOD]).max()
    assert sepia.measured.one_shot[0] > 50 > sepia.measured.one_shot[PERIOD - 1]


def test_a_free_run_has_no_source_and_keeps_its_last_target(endless):
    run_of = partial(endless.run, cases=[Case(0, 0)], loops=LOOPS, moments=(1, 2, 3))
    [run] = run_of(parse_mode("free/lagged/1"), frames=PERIOD + 1, after=10)
    assert run.measured.psnr.shape == (2 * PERIOD,)
    # The teacher stands still from the last frame with a source on.
    assert np.all(run.measured.still[10:] == 1) and run.measured.still[5] < 1
    [seen] = run_of(parse_mode("lagged/1"), frames=PERIOD)
    np.testing.assert_allclose(run.measured.psnr[:10], seen.measured.psnr[:10])
    assert np.abs(run.measured.psnr - seen.measured.psnr[9])[10:20].max() > 1e-3


def test_the_codec_alone_is_watched_on_the_teachers_own_pictures(endless):
    [sepia, _] = endless.through_codec([Case(0, 0), Case(1, 0)], LOOPS)
    config = endless.stream
    clip = endless.rounds(config, [Case(0, 0), Case(1, 0)], LOOPS)[1].target
    codec = endless.params["codec"]
    styled = round_trips(codec, clip, endless.model.codec, config.dtype)
    known = score(styled, clip)
    np.testing.assert_allclose(sepia.psnr, known.psnr[:, 0], rtol=1e-4)
    change = known.change * known.still
    np.testing.assert_allclose(sepia.still_change, change[:, 0], rtol=1e-3, atol=1e-5)


@pytest.fixture
def own_flags():
    """The script's own flags, whatever script was imported after it."""
    importlib.reload(long_streams)
    importlib.reload(script)
    flags.FLAGS.mark_as_parsed()


def test_script_from_files_to_files(tmp_path, monkeypatch, capsys, own_flags):
    save_model(tmp_path / "model")
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "blob.mp4", blob_clip(PERIOD))

    def encode(texts):
        return np.ones((len(texts), TEXT_WIDTH), np.float32)

    monkeypatch.setattr(long_streams, "encode_text", encode)
    out = tmp_path / "drift.json"
    settings = {
        "model": str(tmp_path / "model"),
        "clips": str(tmp_path / "clips"),
        "size": SIDE,
        "modes": ["lagged/1", "free/lagged/1"],
        "styles": list(STYLES),
        "frames": 4 * PERIOD,
        "window": PERIOD,
        "free_frames": 4 * PERIOD,
        "free_after": 8,
        "batch": 2,
        "precision": "float32",
        "out": str(out),
        "pictures": str(tmp_path / "pictures"),
    }
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as left:
        script.main(["drift"])
    assert left.value.code == 1  # a random model follows no teacher
    assert "FAIL" in capsys.readouterr().out
    setup = json.loads(out.read_text())["setup"]
    assert setup["clips"] == ["blob:0", "blob:0 held"]
    assert setup["precision"] == "float32" and len(setup["weights_sha256"]) == 64
    values = read_results(out)
    assert values["frames"] == 4 * PERIOD
    for style in STYLES:
        for name in ("psnr_slope_per_1000", "psnr_first", "psnr_last", "flicker"):
            assert f"{name}/{style}" in values
        assert f"check/motion/{style}" in values
        assert values[f"flicker_codec/{style}"] > 0
    assert 0 <= values["free_frames/sepia/free/lagged/1"] <= 4 * PERIOD
    assert 0 < values["free_psnr/sepia/free/lagged/1"] < 60
    assert not any(name.startswith("free_frames/signal_loss") for name in values)
    names = ("lagged_1", "free_lagged_1")
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        f"drift_{name}.{ending}" for name in names for ending in ("png", "webp")
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 60}, "--window=60: take a multiple of 8"),
        ({"frames": 300, "window": 200}, "a slope needs 4 loops"),
        ({"free_after": 200}, "--free_after=200"),
        ({"batch": 0}, "--batch=0: take at least 1"),
        ({"modes": ["merged"]}, "mode 'merged': write commit/steps"),
        ({"clips": None}, "no clips: set --clips"),
    ],
)
def test_script_refuses_in_one_line(settings, message, own_flags):
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as left:
        script.main(["drift"])
    assert message in str(left.value) and "\n" not in str(left.value)
