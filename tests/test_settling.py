"""Faults, changes of prompt, and when a stream has got over them."""

import importlib
import json

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from moving_blob import blob_clip, write_clip
from toy_model import MODEL, SIDE, frames, play, save_model, settings

from experiments import heal, long_streams, steering
from mirage_jax.config import TEXT_WIDTH
from mirage_jax.evaluation.faults import FAULTS
from mirage_jax.evaluation.settling import frames_until
from mirage_jax.evaluation.steering import likeness
from mirage_jax.results import read_results

PERIOD = 32
LAGGED = settings(commit="lagged")


def test_frames_are_counted_until_the_last_bad_one():
    settled = np.full((6, 4), 30.0)
    psnr = settled.copy()
    psnr[:2, 1] = 20.0
    psnr[[0, 3], 2] = 28.9  # it comes back, and goes once more
    psnr[5, 3] = 20.0
    psnr[4] -= 0.9
    assert frames_until(psnr, settled).tolist() == [0, 2, 4, 6]


def test_likeness_is_highest_for_the_teacher_that_made_it():
    rng = np.random.default_rng(0)
    targets = rng.integers(20, 230, (3, 2, 8, 8, 3), np.uint8)
    found = likeness(targets[1] + 5, list(targets))
    assert found.argmax() == 1
    np.testing.assert_allclose(found[1], 20 * np.log10(255 / 5), rtol=1e-5)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_disturbs_what_comes_next_and_no_prompt(name):
    clip = frames(6)
    _, _, state = play(LAGGED, clip[:4])
    key, prompt = jax.random.key(0), MODEL.denoiser.prompt_tokens
    disturb = jax.jit(FAULTS[name], static_argnums=3)
    hurt, source = disturb(state, clip[4], key, MODEL.denoiser)
    assert source.shape == clip[4].shape and source.dtype == np.uint8
    np.testing.assert_array_equal(
        hurt.cache.k[:, :, :prompt], state.cache.k[:, :, :prompt]
    )
    with_fault = np.stack([np.asarray(source), clip[5]])
    _, wrong, _ = play(LAGGED, with_fault, hurt)
    assert np.isfinite(wrong).all()
    _, fine, _ = play(LAGGED, clip[4:], state)
    assert np.abs(wrong - fine)[1].max() > 1e-4  # the frame after it, by its memory


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Flags for a toy model and a clip; the scripts' own, whatever came after them."""
    for module in (long_streams, heal, steering):
        importlib.reload(module)
    flags.FLAGS.mark_as_parsed()
    save_model(tmp_path / "model")
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "blob.mp4", blob_clip(PERIOD))

    def encode(texts):
        rows = [np.random.default_rng(len(t)).normal(size=TEXT_WIDTH) for t in texts]
        return np.asarray(rows, np.float32)

    monkeypatch.setattr(long_streams, "encode_text", encode)
    monkeypatch.setattr(steering, "encode_text", encode)
    return {
        "model": str(tmp_path / "model"),
        "clips": str(tmp_path / "clips"),
        "size": SIDE,
        "styles": ["sepia", "signal_loss"],
        "held": False,
        "window": PERIOD,
        "batch": 2,
        "precision": "float32",
        "out": str(tmp_path / "out.json"),
    }


def test_heal_from_files_to_a_file(files):
    importlib.reload(heal)  # whose --out it is
    with flagsaver.flagsaver(**files, modes=["lagged/1"]):
        try:
            heal.main(["heal"])
        except SystemExit as left:
            assert left.code == 1
    values = read_results(files["out"])
    for name in FAULTS:
        path = f"{name}/lagged/1"
        assert 0 <= values[f"heal_frames_mean/{path}"] <= values[f"heal_frames/{path}"]
        assert values[f"heal_loss/{path}"] == pytest.approx(0, abs=60)
        assert f"check/heal_frames/{path}" in values
    assert json.loads(open(files["out"]).read())["setup"]["modes"] == ["lagged/1"]


def test_steering_from_files_to_a_file(files, capsys):
    with flagsaver.flagsaver(**files, mode="lagged/1"):
        with pytest.raises(SystemExit) as left:
            steering.main(["steering"])
    assert left.value.code == 1  # a random model follows no wording
    assert "FAIL  wording_right_mean" in capsys.readouterr().out
    values = read_results(files["out"])
    for style in ("sepia", "signal_loss"):
        shares = [v for n, v in values.items() if n.startswith(f"confusion/{style}/")]
        assert sum(shares) == pytest.approx(1)
        assert 0 <= values[f"switch_frames/{style}"] <= PERIOD
        assert f"check/reset_change/{style}" in values


@pytest.mark.parametrize(
    ("script", "settings", "message"),
    [
        (heal, {"modes": ["free/lagged/1"]}, "heal: --modes=free/lagged/1"),
        (steering, {"mode": "free/lagged/1"}, "steering: --mode=free/lagged/1"),
        (steering, {"styles": ["sepia"]}, "steering: --styles: name two"),
    ],
)
def test_scripts_refuse_in_one_line(files, script, settings, message):
    with flagsaver.flagsaver(**files | settings), pytest.raises(SystemExit) as left:
        script.main([script.__name__])
    assert str(left.value).startswith(message) and "\n" not in str(left.value)
