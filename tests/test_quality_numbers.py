"""Means, checks and drift from the scores of single frames."""

import numpy as np
import pytest

from mirage_jax.data.teachers import comparable_styles, find_style
from mirage_jax.evaluation import checks, summary
from mirage_jax.evaluation.quality import Case, CaseScores, LongRun, Plan
from mirage_jax.stream_config import StreamConfig


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
        "change": 1.0,
        "still": 0.5,
        "psnr_codec": 35.0,
        "ssim_codec": 0.97,
        "psnr_source": 15.0,
        "ssim_source": 0.5,
        "psnr_colour_transfer": 25.0,
        "ssim_colour_transfer": 0.7,
        "psnr_colour_map": 28.0,
    } | changes
    styles = [find_style(n, comparable_styles()) for n in ("pencil", "low_light")]
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
    styles = [find_style("pencil", comparable_styles())]
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
    styles = [find_style(n, comparable_styles()) for n in ("pencil", "light_trails")]
    length = 32
    psnr = np.full(3 * length, 30.0)
    psnr[:3] = 50.0  # the opening, where light trails have no past yet
    psnr[-length:][8:30] = 29.0
    runs = [LongRun(Case(s, 0), 1, psnr) for s in (0, 1)]
    values = summary.long_run_values(runs, styles, length)
    assert values["drift_last_minus_first/pencil/1"] == pytest.approx(-7.5)
    assert values["drift_last_minus_first/light_trails/1"] == pytest.approx(0)
    assert values["drift_last_minus_early/light_trails/1"] == pytest.approx(-1)
    failed = [c for c in checks.quality_checks(values, styles) if not c.passed]
    assert len(failed) == 3 and "FAIL" in str(failed[0])
