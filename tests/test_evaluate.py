"""The evaluation from clips to the JSON file, with a random model at 64x64."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from moving_blob import blob_clip, write_clip
from PIL import Image
from toy_model import MODEL, SIDE, params, prompts, save_model, settings, start

from experiments import evaluate
from mirage_jax import stream as streams
from mirage_jax.config import TEXT_WIDTH
from mirage_jax.data.teachers import Style, comparable_styles, find_style
from mirage_jax.evaluation import clips, streaming, summary
from mirage_jax.evaluation.quality import Case, Plan, SizeBench
from mirage_jax.evaluation.targets import loop_context, loop_index, make_targets
from mirage_jax.results import A_COMMIT, read_results
from mirage_jax.weights import Model

LENGTH = 16


@pytest.fixture(scope="module")
def model():
    return Model(MODEL, params(), "0" * 64)


@pytest.fixture(scope="module")
def bench(model):
    styles = [
        find_style(name, comparable_styles()) for name in ("sepia", "signal_loss")
    ]
    plan = Plan(
        stream=settings(),
        length=LENGTH,
        steps=(1, 2),
        long_steps=(2,),
        long_frames=2 * LENGTH + 1,
        batch=2,
    )
    words = np.asarray(prompts(2))
    return SizeBench(model, plan, styles, words, SIDE, jax.devices()[0])


CASES = [Case(0, 0), Case(1, 0)]


@pytest.fixture(scope="module")
def scores(bench):
    return bench.cases(CASES, blob_clip(LENGTH)[None])


def test_scores_are_those_of_the_stream_frame_by_frame(bench, scores, model):
    frames = jnp.asarray(blob_clip(LENGTH))
    stream = settings(batch=2)
    key = jax.random.key(bench.plan.seed)
    state = start(stream, bench.plan.seed)
    index = jnp.arange(LENGTH, dtype=jnp.int32)
    source, target = jax.jit(make_targets(bench.styles[0]))(frames, index, key)
    np.testing.assert_array_equal(source, frames)
    # The other stream of the batch sees another clip and must not matter.
    pair = jnp.stack([source, source[::-1]], axis=1)
    scan = streams.make_scan(MODEL, stream)
    _, styled = scan(model.params, state, pair)
    error = np.asarray(styled[:, 0], float) - np.asarray(target)
    psnr = 10 * np.log10(255**2 / np.mean(error**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(scores[0].frames["psnr/1"], psnr, atol=0.02)


def test_every_measure_has_a_value_a_frame(scores):
    measures = ("psnr", "ssim", "sharpness", "change", "still", "psnr_forgetful")
    names = {
        *(f"{m}/{steps}" for m in measures for steps in (1, 2)),
        *(f"{m}_{b}" for m in ("psnr", "ssim") for b in ("source", "codec")),
        "psnr_colour_transfer",
        "psnr_colour_map",
    }
    for row in scores:
        assert names <= row.frames.keys()
        for name, values in row.frames.items():
            assert values.shape == (LENGTH,) and np.isfinite(values).all(), name
        assert [p.shape for p in row.pictures] == [(SIDE, SIDE, 3)] * 3


def test_baselines_order_as_their_freedom(scores):
    """Source, best function of a channel, best function of the colour."""
    sepia = scores[0].frames
    source, transfer, cube = (
        sepia[f"psnr_{name}"].mean()
        for name in ("source", "colour_transfer", "colour_map")
    )
    assert source < transfer < cube


def test_first_frame_has_no_memory_to_lose(scores):
    """With the cache emptied every frame the opening frame is the same."""
    for row in scores:
        gain = row.frames["psnr/1"] - row.frames["psnr_forgetful/1"]
        assert abs(gain[0]) < 1e-3 and np.abs(gain[1:]).max() > 1e-4


def test_codec_alone(bench):
    several = np.stack(
        [blob_clip(LENGTH, seed=s) for s in range(4)]
    )  # more than a batch
    scores = bench.codec(several)
    assert scores["psnr"].shape == scores["ssim"].shape == (4, LENGTH)


def test_long_run_shows_the_same_frames_in_every_round(bench):
    loop = blob_clip(LENGTH)[clips.to_and_fro(LENGTH)]
    runs = bench.long_runs(CASES, loop[None])
    assert [run.psnr.shape for run in runs] == [(3 * LENGTH,)] * 2
    values = summary.long_run_values(runs, bench.styles, LENGTH)
    assert {f"drift_last_minus_first/{s}/2" for s in ("sepia", "signal_loss")} <= {
        *values
    }
    last, first = runs[0].psnr[-LENGTH:], runs[0].psnr[:LENGTH]
    np.testing.assert_allclose(
        values["drift_last_minus_first/sepia/2"], (last - first)[:8].mean(), atol=1e-5
    )


def _toy_effect():
    """Mean of three frames of a source whose random frames are lost."""

    def apply(frames, index, key):
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
        kept = jax.vmap(lambda one: jax.random.bernoulli(one, 0.7))(keys)
        source = frames * kept[:, None, None, None]
        padded = jnp.pad(source, ((2, 0), (0, 0), (0, 0), (0, 0)))
        return source, (padded[2:] + padded[1:-1] + padded[:-2]) / 3

    return Style("toy", "memory", 2, apply)


@pytest.mark.parametrize("name", ["signal_loss", "toy"])
def test_rounds_of_a_loop_differ_only_where_an_effect_has_no_past(name):
    style = find_style(name, (*comparable_styles(), _toy_effect()))
    loop = jnp.asarray(blob_clip(LENGTH)[clips.to_and_fro(LENGTH)])
    context = loop_context(style)
    before = jnp.concatenate([loop[LENGTH - context :], loop])
    key = jax.random.key(3)
    first = jax.jit(make_targets(style))(loop, loop_index(LENGTH, 0), key)
    later = jax.jit(make_targets(style, context))(
        before, loop_index(LENGTH, context), key
    )
    for once, again in zip(first, later, strict=True):
        assert once.shape == again.shape == loop.shape
        np.testing.assert_array_equal(once[style.history :], again[style.history :])
    assert (np.asarray(first[1][0]) != np.asarray(later[1][0])).any() or name != "toy"


def test_targets_do_not_depend_on_the_chunk():
    """A style without history is worked on in chunks: the same as in one piece."""
    effect = _toy_effect()
    style = dataclasses.replace(
        effect,
        history=0,
        apply=lambda frames, index, key: (effect.apply(frames, index, key)[0], frames),
    )
    frames, index, key = jnp.asarray(blob_clip(16)), jnp.arange(16), jax.random.key(1)
    source, target = jax.jit(make_targets(style))(frames, index, key)
    whole, _ = style.apply(frames / 255, index, key)
    np.testing.assert_array_equal(source, np.round(whole * 255))
    np.testing.assert_array_equal(target, frames)


def test_score_of_a_known_error():
    target = jnp.asarray(blob_clip(3))[:, None]
    still = jnp.concatenate([target[:1]] * 3)
    scores = streaming.score(still + jnp.uint8(5), still)
    np.testing.assert_allclose(scores.psnr, 20 * np.log10(255 / 5), atol=1e-3)
    np.testing.assert_allclose(scores.still[:, 0], [0, 1, 1])
    np.testing.assert_allclose(scores.change, 0, atol=1e-6)
    blinking = still.at[1].add(10)
    scores = streaming.score(blinking, still)
    np.testing.assert_allclose(scores.change[1:, 0], [100, 100], rtol=1e-4)


@pytest.fixture
def own_flags():
    """The script's own flags, whatever script was imported after it."""
    importlib.reload(evaluate)
    flags.FLAGS.mark_as_parsed()


def test_script_from_files_to_files(tmp_path, model, monkeypatch, capsys, own_flags):
    folder = tmp_path / "model"
    save_model(folder)
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "blob.mp4", blob_clip(LENGTH))
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.ones((len(texts), TEXT_WIDTH), np.float32)

    monkeypatch.setattr(evaluate, "encode_text", encode)
    out = tmp_path / "quality.json"
    given = {
        "model": str(folder),
        "clips": str(tmp_path / "clips"),
        "sizes": [SIDE],
        "steps": [1],
        "frames": LENGTH,
        "streaming_frames": 2 * LENGTH,
        "streaming_steps": [1],
        "styles": ["sepia", "signal_loss"],
        "precision": "float32",
        "out": str(out),
        "pictures": str(tmp_path / "pictures"),
        "strict": True,
        "profile_dir": str(tmp_path / "profile"),
    }
    with flagsaver.flagsaver(**given), pytest.raises(SystemExit) as left:
        evaluate.main(["evaluate"])
    assert left.value.code == 1  # a random model clears no bar
    printed = capsys.readouterr().out
    assert "FAIL" in printed
    assert "profile: clip 1 to 2; open it with tensorboard --logdir=" in printed
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    record = json.loads(out.read_text())
    assert record["setup"]["clips"] == ["blob:0"]
    setup = record["setup"]
    assert setup["commit_mode"] == "merged"
    assert setup["commit"] is None or A_COMMIT.fullmatch(setup["commit"])
    assert list(record["setup"]["prompts"].values()) == asked
    values = read_results(out)
    assert values["check/psnr_over_source/sepia/64/1"] == 0
    for name in (
        "psnr/sepia/64/1",
        "ssim/signal_loss/64/1",
        "psnr_source/sepia/64",
        "psnr_colour_transfer/sepia/64",
        "psnr_codec/sepia/64",
        "codec/psnr/64",
        "memory_gain/signal_loss/64/1",
        "psnr_mean/procedural/64/1",
        "drift_last_minus_first/sepia/1",
    ):
        assert name in values
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == [
        "quality_memory_64.webp",
        "quality_procedural_64.webp",
    ]
    for path in (tmp_path / "pictures").iterdir():
        assert Image.open(path).width < 700  # no wider than the page that shows it


def test_script_refuses_in_one_line(tmp_path, own_flags):
    with flagsaver.flagsaver(model=str(tmp_path)), pytest.raises(SystemExit) as left:
        evaluate.main(["evaluate"])
    assert str(left.value).startswith("evaluate: no weights at")
