"""The evaluation from clips to the JSON file, with a random model at 64x64."""

import dataclasses
import json

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from experiments import evaluate
from mirage_jax import stream as streams
from mirage_jax.codec import init_codec
from mirage_jax.config import TEXT_WIDTH, model_config
from mirage_jax.data.teachers import Style, find_style, shipped_styles
from mirage_jax.denoiser import init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.evaluation import checks, clips, pictures, streaming, summary
from mirage_jax.evaluation.quality import Case, CaseScores, LongRun, Plan, SizeBench
from mirage_jax.evaluation.targets import loop_context, loop_index, make_targets
from mirage_jax.results import Result, device_setup, read_results, write_results
from mirage_jax.stream import StreamConfig
from mirage_jax.weights import Model, save_weights

SIDE, LENGTH = 64, 16
CONFIG = model_config("test")


def _clip(frames, side=SIDE, seed=0):
    """A soft blob on a gradient, moving a few pixels a frame."""
    y, x = np.mgrid[:side, :side] / side
    pictures = []
    for t in range(frames):
        centre = 0.5 + 0.3 * np.sin(0.25 * t + seed)
        blob = np.exp(-((x - centre) ** 2 + (y - 0.5) ** 2) / 0.02)
        picture = np.stack([0.3 * x + 0.6 * blob, 0.5 * y, 0.2 + 0.4 * x * y], -1)
        pictures.append((picture * 255).astype(np.uint8))
    return np.stack(pictures)


def _write_clip(path, frames):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


@pytest.fixture(scope="module")
def model():
    codec_key, denoiser_key = jax.random.split(jax.random.key(0))
    params = {
        "codec": init_codec(codec_key, CONFIG.codec),
        "denoiser": init_denoiser(denoiser_key, CONFIG),
    }
    random = np.random.default_rng(0)

    def stir(leaf):
        # Fresh models start with zeros that hide the history from the output.
        noise = random.normal(0, 0.05, leaf.shape).astype(np.float32)
        return np.asarray(leaf) + noise

    return Model(CONFIG, jax.tree.map(stir, params), "0" * 64)


@pytest.fixture(scope="module")
def bench(model):
    styles = [find_style(name, shipped_styles()) for name in ("sepia", "signal_loss")]
    plan = Plan(
        stream=StreamConfig(dtype="float32", unroll=False),
        length=LENGTH,
        steps=(1,),
        long_steps=(1,),
        long_frames=2 * LENGTH + 1,
        batch=2,
    )
    prompts = np.random.default_rng(0).normal(size=(2, TEXT_WIDTH)).astype(np.float32)
    return SizeBench(model, plan, styles, prompts, SIDE, jax.devices()[0])


CASES = [Case(0, 0), Case(1, 0)]


@pytest.fixture(scope="module")
def scores(bench):
    return bench.cases(CASES, _clip(LENGTH)[None])


def test_scores_are_those_of_the_stream_frame_by_frame(bench, scores, model):
    frames = jnp.asarray(_clip(LENGTH))
    stream = dataclasses.replace(bench.plan.stream, height=SIDE, width=SIDE, batch=2)
    key = jax.random.key(bench.plan.seed)
    prompts = jnp.asarray(bench.prompts)
    state = streams.open_stream(model.params, CONFIG, stream, prompts, key)
    index = jnp.arange(LENGTH, dtype=jnp.int32)
    source, target = jax.jit(make_targets(bench.styles[0]))(frames, index, key)
    np.testing.assert_array_equal(source, frames)
    # The other stream of the batch sees another clip and must not matter.
    pair = jnp.stack([source, source[::-1]], axis=1)
    scan = streams.make_scan(CONFIG, stream)
    _, styled = scan(model.params, state, pair)
    error = np.asarray(styled[:, 0], float) - np.asarray(target)
    psnr = 10 * np.log10(255**2 / np.mean(error**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(scores[0].frames["psnr/1"], psnr, atol=0.02)


def test_every_measure_has_a_value_a_frame(scores):
    names = {
        *(f"{m}/1" for m in ("psnr", "ssim", "sharpness", "change", "still")),
        "psnr_forgetful/1",
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
    several = np.stack([_clip(LENGTH, seed=s) for s in range(4)])  # more than a batch
    scores = bench.codec(several)
    assert scores["psnr"].shape == scores["ssim"].shape == (4, LENGTH)


def test_long_run_shows_the_same_frames_in_every_round(bench):
    loop = _clip(LENGTH)[clips.to_and_fro(LENGTH)]
    runs = bench.long_runs(CASES, loop[None])
    assert [run.psnr.shape for run in runs] == [(3 * LENGTH,)] * 2
    values = summary.long_run_values(runs, bench.styles, LENGTH)
    assert {f"drift_last_minus_first/{s}/1" for s in ("sepia", "signal_loss")} <= {
        *values
    }
    last, first = runs[0].psnr[-LENGTH:], runs[0].psnr[:LENGTH]
    np.testing.assert_allclose(
        values["drift_last_minus_first/sepia/1"], (last - first)[:8].mean(), atol=1e-5
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
    style = find_style(name, (*shipped_styles(), _toy_effect()))
    loop = jnp.asarray(_clip(LENGTH)[clips.to_and_fro(LENGTH)])
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
    frames, index, key = jnp.asarray(_clip(16)), jnp.arange(16), jax.random.key(1)
    source, target = jax.jit(make_targets(style))(frames, index, key)
    whole, _ = style.apply(frames / 255, index, key)
    np.testing.assert_array_equal(source, np.round(whole * 255))
    np.testing.assert_array_equal(target, frames)


def test_score_of_a_known_error():
    target = jnp.asarray(_clip(3))[:, None]
    still = jnp.concatenate([target[:1]] * 3)
    scores = streaming.score(still + jnp.uint8(5), still)
    np.testing.assert_allclose(scores.psnr, 20 * np.log10(255 / 5), atol=1e-3)
    np.testing.assert_allclose(scores.still[:, 0], [0, 1, 1])
    np.testing.assert_allclose(scores.change, 0, atol=1e-6)
    blinking = still.at[1].add(10)
    scores = streaming.score(blinking, still)
    np.testing.assert_allclose(scores.change[1:, 0] * 255, [10, 10], rtol=1e-4)


def _fake_scores(style, clip, steps=(1,), **means):
    frames: dict[str, np.ndarray] = {}
    for name, value in means.items():
        if name in ("psnr", "ssim", "psnr_forgetful", "sharpness", "change", "still"):
            frames |= {f"{name}/{s}": np.full(4, value) for s in steps}
        else:
            frames[name] = np.full(4, value)
    return CaseScores(Case(style, clip), frames, ())


def _fake_values(**changes):
    """A model that clears all bars for a procedural and a memory style."""
    means = {
        "psnr": 32.0,
        "ssim": 0.95,
        "psnr_forgetful": 30.0,
        "sharpness": 0.9,
        "change": 1 / 255,
        "still": 0.5,
        "psnr_codec": 35.0,
        "ssim_codec": 0.97,
        "psnr_source": 15.0,
        "ssim_source": 0.5,
        "psnr_colour_transfer": 25.0,
        "ssim_colour_transfer": 0.7,
        "psnr_colour_map": 28.0,
    } | changes
    styles = [find_style(n, shipped_styles()) for n in ("pencil", "low_light")]
    plan = Plan(stream=StreamConfig(), length=16, steps=(1,))
    scores = [_fake_scores(s, c, **means) for s in (0, 1) for c in (0, 1)]
    return summary.quality_values(scores, styles, ["a", "b"], plan, 512), styles


def test_means_by_style_kind_and_clip():
    values, _ = _fake_values()
    assert values["psnr/pencil/512/1"] == 32
    assert values["memory_gain/low_light/512/1"] == 2
    assert values["codec_gap/pencil/512/1"] == 3
    assert values["psnr_mean/procedural/512/1"] == 32
    assert values["psnr_clip/a/512/1"] == 32
    assert values["flicker/pencil/512/1"] == pytest.approx(1)
    text = summary.table(values, _fake_values()[1], 512, 1)
    assert "pencil" in text and "32.000" in text


def test_means_weigh_all_frames_alike():
    styles = [find_style("pencil", shipped_styles())]
    plan = Plan(stream=StreamConfig(), length=16, steps=(2,), memory_gain=False)
    rest = {"ssim": 1.0, "sharpness": 1.0, "change": 0.0, "still": 0.0}
    scores = [
        _fake_scores(0, c, (2,), psnr=p, psnr_codec=40.0, **rest)
        for c, p in enumerate((20.0, 30.0))
    ]
    values = summary.quality_values(scores, styles, ["a", "b"], plan, 64)
    assert values["psnr/pencil/64/2"] == 25 and values["psnr_clip/b/64/2"] == 30
    assert not any("memory_gain" in name or "flicker" in name for name in values)


def test_checks_pass_and_each_bar_can_fail():
    def failed(**changes):
        values, styles = _fake_values(**changes)
        values |= {"codec/psnr/512": changes.get("codec", 38.0)}
        return {c.name for c in checks.quality_checks(values, styles) if not c.passed}

    assert not failed()
    assert failed(psnr_source=31.5) == {
        "psnr_over_source/pencil/512/1",
        "psnr_over_source/low_light/512/1",
    }
    assert "ssim_over_colour_transfer/pencil/512/1" in failed(ssim_colour_transfer=0.96)
    assert failed(psnr_forgetful=30.6) == {"memory_gain/low_light/512/1"}
    assert failed(codec=36.0) == {"codec/psnr/512"}
    assert failed(psnr_codec=36.5) == {"codec_gap_mean/procedural/512/1"}
    assert failed(psnr=29.9) >= {"psnr_mean/procedural/512/1"}


def test_a_mere_colour_map_need_not_beat_the_colour_transfer():
    values, styles = _fake_values(psnr_colour_map=41.0, psnr_colour_transfer=33.0)
    assert all(check.passed for check in checks.quality_checks(values, styles))


def test_drift_counts_the_same_moments():
    styles = [find_style(n, shipped_styles()) for n in ("pencil", "light_trails")]
    length = 32
    psnr = np.full(3 * length, 30.0)
    psnr[:3] = 50.0  # the opening, where light trails have no past yet
    psnr[-length:][8:30] = 29.0
    runs = [LongRun(Case(s, 0), 1, psnr, ()) for s in (0, 1)]
    values = summary.long_run_values(runs, styles, length)
    assert values["drift_last_minus_first/pencil/1"] == pytest.approx(-7.5)
    assert values["drift_last_minus_first/light_trails/1"] == pytest.approx(0)
    assert values["drift_last_minus_early/light_trails/1"] == pytest.approx(-1)
    failed = [c for c in checks.quality_checks(values, styles) if not c.passed]
    assert len(failed) == 3 and "FAIL" in str(failed[0])


def test_results_file_keeps_its_form(tmp_path):
    path = tmp_path / "deep" / "numbers.json"
    results = [
        Result("psnr/pencil/512/1", 30.5, "dB"),
        Result("ms", 1.0, "ms", "lower"),
    ]
    write_results(path, "experiments/x.py", device_setup(), results)
    record = json.loads(path.read_text())
    assert record.keys() == {"script", "setup", "results"}
    assert record["results"][0] == {
        "name": "psnr/pencil/512/1",
        "value": 30.5,
        "unit": "dB",
        "better": "higher",
    }
    assert {"device", "jax", "platform"} <= record["setup"].keys()
    assert read_results(path) == {"psnr/pencil/512/1": 30.5, "ms": 1.0}
    assert [p.name for p in path.parent.iterdir()] == ["numbers.json"]


def test_bad_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        Result("psnr", float("nan"), "dB")
    with pytest.raises(ValueError, match="better"):
        Result("psnr", 1.0, "dB", "up")
    path = tmp_path / "numbers.json"
    with pytest.raises(ValueError, match="given twice"):
        write_results(path, "x", {}, [Result("a", 1.0, "1")] * 2)
    assert not path.exists()
    with pytest.raises(MirageError, match="cannot read"):
        read_results(path)
    path.write_text("here is a file")
    with pytest.raises(MirageError, match="cannot write"):
        write_results(path / "below", "x", {}, [])


def test_clips_are_spread_and_have_the_same_moments_at_every_size(tmp_path):
    _write_clip(tmp_path / "long.mp4", _clip(40, 96))
    _write_clip(tmp_path / "short.mp4", _clip(10, 96))
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
    Image.fromarray(_clip(1, 128)[0]).save(tmp_path / "photo.png")
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
    frame = _clip(1)[0]
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    rows = [("a", [frame, noise]), ("b_c", [noise, pictures.difference(frame, frame)])]
    grid = pictures.draw_grid(["one", "two"], rows, cell=SIDE)
    corner = np.asarray(grid)[20 : 20 + SIDE, 96 : 96 + SIDE]
    np.testing.assert_array_equal(corner, frame)
    assert (np.asarray(grid)[-SIDE - 4 : -4, -SIDE - 4 : -4] == 0).all()
    pictures.save_picture(tmp_path / "grid.jpg", grid, limit=20_000)
    assert (tmp_path / "grid.jpg").stat().st_size <= 20_000
    pictures.save_picture(tmp_path / "grid.png", grid)
    with pytest.raises(ValueError, match="too large"):
        pictures.save_picture(tmp_path / "tiny.jpg", grid, limit=100)
    with pytest.raises(ValueError, match="do not fill"):
        pictures.draw_grid(["one"], rows)


def test_script_from_files_to_files(tmp_path, model, monkeypatch, capsys):
    folder = tmp_path / "model"
    save_weights(folder / "codec.safetensors", model.params["codec"], CONFIG.codec)
    save_weights(
        folder / "denoiser.safetensors", model.params["denoiser"], CONFIG.denoiser
    )
    (tmp_path / "clips").mkdir()
    _write_clip(tmp_path / "clips" / "blob.mp4", _clip(LENGTH))
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.ones((len(texts), TEXT_WIDTH), np.float32)

    monkeypatch.setattr(evaluate, "encode_text", encode)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["evaluate"])
    out = tmp_path / "quality.json"
    settings = {
        "model": str(folder),
        "clips": str(tmp_path / "clips"),
        "sizes": [SIDE],
        "steps": [1],
        "frames": LENGTH,
        "streaming_frames": 2 * LENGTH,
        "streaming_steps": [1],
        "styles": ["sepia", "signal_loss"],
        "dtype": "float32",
        "out": str(out),
        "pictures": str(tmp_path / "pictures"),
        "strict": True,
    }
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as left:
        evaluate.main(["evaluate"])
    assert left.value.code == 1  # a random model clears no bar
    assert "FAIL" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["setup"]["clips"] == ["blob:0"]
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
        "long_run_64.jpg",
        "quality_memory_64.jpg",
        "quality_procedural_64.jpg",
    ]


def test_script_refuses_in_one_line(tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["evaluate"])
    with flagsaver.flagsaver(model=str(tmp_path)), pytest.raises(SystemExit) as left:
        evaluate.main(["evaluate"])
    assert str(left.value).startswith("evaluate: no weights at")
