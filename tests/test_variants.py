"""Streams of styles with several looks: which one they show, and whether it stays."""

import importlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from moving_blob import blob_clip, write_clip
from toy_model import SIDE, save_model

from experiments import long_streams
from experiments import variants as script
from mirage_jax.config import TEXT_WIDTH
from mirage_jax.data.teachers import all_styles, comparable_styles, find_style
from mirage_jax.data.varied_styles import VARIANTS, screen_print
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.quality import Case
from mirage_jax.evaluation.variants import (
    Choice,
    choice_checks,
    choice_values,
    compare,
    watch_choice,
)
from mirage_jax.pixels import to_bytes
from mirage_jax.results import read_record, read_results
from mirage_jax.stream import frame_noise
from mirage_jax.training.variants import variant_of_noise

PERIOD = 32
STYLE = find_style("screen_print", all_styles())


def shown(variants):
    """What teachers of these variants, [T, B], look like: numbers of every frame."""
    rng = np.random.default_rng(0)
    source = jnp.asarray(rng.integers(0, 256, (1, 32, 32, 3)), jnp.uint8)
    floats = source.astype(jnp.float32) / 255
    looks = [to_bytes(screen_print(floats, jnp.int32(v))) for v in range(VARIANTS)]
    of_look = jax.tree.map(
        lambda *x: np.stack(x),
        *[
            Choice(*compare(STYLE, source, look), jnp.full(1, variant))
            for variant, look in enumerate(looks)
        ],
    )
    return jax.tree.map(lambda x: x[:, 0][variants], of_look)


def missed(choice):
    checks = choice_checks(choice_values(choice, PERIOD), "x")
    return {check.name.split("/")[0] for check in checks if not check.passed}


def test_streams_that_keep_their_variant_pass():
    choice = shown(np.tile([[0, 3, 1]], (3 * PERIOD, 1)))
    values = choice_values(choice, PERIOD)
    assert values["variant_kept"] == 1 and values["variant_wandered"] == 0
    assert values["variants_chosen"] == 3 and values["variant_as_named"] == 1
    assert (
        values["variant_psnr_last"] == pytest.approx(100)
        and values["variant_margin"] > 20
    )
    assert values["variant_sharpness"] == pytest.approx(1)
    assert not missed(choice)


def test_a_variant_that_changes_is_noticed():
    variants = np.tile([[0, 3]], (4 * PERIOD, 1))
    variants[2 * PERIOD :, 1] = 2
    values = choice_values(shown(variants), PERIOD)
    assert values["variant_kept"] == 0.5 and values["variant_wandered"] == 0.25
    assert "variant_kept" in missed(shown(variants))


def test_one_variant_for_all_is_no_choice_and_a_mean_of_all_is_blurred():
    assert missed(shown(np.full((PERIOD, 4), 2))) == {"variants_chosen"}
    same = shown(np.tile([[0, 3]], (PERIOD, 1)))
    blurred = same.replace(sharpness=0.8 * same.sharpness)
    assert missed(blurred) == {"variant_sharpness_low"}
    noisy = same.replace(sharpness=1.3 * same.sharpness)
    assert missed(noisy) == {"variant_sharpness_high"}


def test_a_choice_that_the_noise_does_not_name_is_told():
    choice = shown(np.tile([[0, 3]], (PERIOD, 1)))
    other = choice.replace(named=np.tile([[0, 2]], (PERIOD, 1)))
    assert choice_values(other, PERIOD)["variant_as_named"] == 0.5


def test_frames_must_be_whole_loops():
    with pytest.raises(ValueError, match="whole loops"):
        choice_values(shown(np.zeros((PERIOD + 1, 1), int)), PERIOD)


def test_a_style_of_one_look_has_nothing_to_choose():
    picture = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    with pytest.raises(MirageError, match="sepia"):
        compare(find_style("sepia", comparable_styles()), picture, picture)


@pytest.fixture
def own_flags():
    """The script's own flags, whatever script was imported after it."""
    importlib.reload(long_streams)
    importlib.reload(script)
    flags.FLAGS.mark_as_parsed()


def test_the_script_writes_what_it_found(tmp_path, monkeypatch, own_flags):
    monkeypatch.setattr(
        long_streams, "encode_text", lambda texts: np.ones((len(texts), TEXT_WIDTH))
    )
    seen = []

    def watch(endless, mode, style, part, loops, frames):
        choice = watch_choice(endless, mode, style, part, loops, frames)
        config = endless.of_mode(mode)
        opened = endless.open(config, part)
        named = variant_of_noise(frame_noise(opened, config, endless.model))
        # One noise for all frames: each is made of what the first one was.
        np.testing.assert_array_equal(choice.named, np.tile(named, (frames, 1)))
        seen.append(style.name)
        return choice

    monkeypatch.setattr(script, "watch_choice", watch)
    save_model(tmp_path / "model")
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "blob.mp4", blob_clip(PERIOD))
    settings = {
        "model": str(tmp_path / "model"),
        "clips": str(tmp_path / "clips"),
        "size": SIDE,
        "modes": ["lagged/1"],
        "frames": PERIOD + 1,
        "window": PERIOD,
        "streams": 2,
        "held": False,
        "precision": "float32",
        "out": str(tmp_path / "variants.json"),
    }
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as left:
        script.main(["variants"])
    assert left.value.code == 1  # a random model follows no teacher
    record = read_record(tmp_path / "variants.json")
    assert record.setup["batch"] == 2, "styles run one after the other"
    values = read_results(tmp_path / "variants.json")
    assert values["frames"] == 2 * PERIOD
    assert seen == ["screen_print", "ribbed_glass"]
    for style in seen:
        path = f"{style}/lagged/1"
        assert 0 <= values[f"variant_kept/{path}"] <= 1
        assert values[f"variants_chosen/{path}"] in (1, 2)
        assert values[f"check/variant_sharpness_low/{path}"] in (0, 1)


def test_a_run_that_is_cut_off_keeps_the_styles_before(
    tmp_path, monkeypatch, own_flags
):
    monkeypatch.setattr(
        script, "load_long_streams", lambda *_, **__: cut_off(script.WINDOW.value)
    )
    looked_at: list[str] = []

    def watch(endless, mode, style, part, loops, frames):
        if looked_at:
            raise KeyboardInterrupt
        looked_at.append(style.name)
        errors, sharpness = np.ones((2, frames, 1, 4), np.float32)
        return Choice(errors, sharpness, jnp.zeros((frames, 1), int))

    monkeypatch.setattr(script, "watch_choice", watch)
    out = tmp_path / "variants.json"
    with flagsaver.flagsaver(frames=200, out=str(out)):
        with pytest.raises(KeyboardInterrupt):
            script.main(["variants"])
    [first] = looked_at
    names = {name for name in read_results(out) if name.startswith("variant_kept")}
    assert names == {f"variant_kept/{first}/lagged/1"}


def cut_off(window):
    """Two styles without a model behind them."""
    styles = script.varied(None)
    cases = [Case(place, 0) for place in range(len(styles))]
    return long_streams.LongStreams(
        endless=SimpleNamespace(stream=SimpleNamespace(batch=1)),  # type: ignore[arg-type]
        styles=styles,
        wordings={},
        loops=np.zeros((1, window, 1, 1, 3), np.uint8),
        cases=cases,
        setup={},
    )


def test_a_free_run_is_refused(own_flags):
    settings = {"modes": ["free/lagged/1"]}
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as left:
        script.main(["variants"])
    assert "free run has nothing" in str(left.value)
