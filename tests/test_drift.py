"""The drift test itself: a perfect teacher passes, what is known to drift does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drift_controls import CONTROLS, perfect
from moving_blob import blob_clip

from mirage_jax.evaluation import drift, metrics, streaming, verdict
from mirage_jax.evaluation.clips import to_and_fro
from mirage_jax.evaluation.trend import slope_with_interval

SIDE, PERIOD, LOOPS = 32, 32, 8


@functools.cache
def loop():
    """Two streams, one of which has a camera that never moves."""
    texture = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3), np.uint8)
    moving = (blob_clip(PERIOD // 2 + 1, SIDE) // 2 + texture)[to_and_fro(PERIOD)]
    held = np.broadcast_to(moving[5], moving.shape)
    clip = jnp.asarray(np.stack([moving, held], axis=1))
    return drift.Moment(clip, clip, clip, jnp.ones(clip.shape[:2], bool))


def run(step, loops=LOOPS, moments=()):
    state = jnp.zeros((), jnp.int32), jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8)
    seen = drift.begin(state, (2, SIDE, SIDE, 3), moments)
    watch = jax.jit(functools.partial(drift.watch, step))
    parts = []
    for _ in range(loops):
        seen, measured = watch(seen, loop())
        parts.append(jax.device_get(measured))
    return seen, jax.tree.map(lambda *x: np.concatenate(x), *parts)


def missed(measured, history=0):
    values = verdict.drift_values(measured, PERIOD, history)
    checks = verdict.drift_checks(values, "control")
    assert len(checks) == 7
    return {check.name.split("/")[0] for check in checks if not check.passed}


def test_a_perfect_teacher_passes():
    _, measured = run(perfect)
    assert not missed(measured)
    values = verdict.drift_values(measured, PERIOD)
    assert values["psnr_last"] == values["one_shot"] == metrics.PSNR_LIMIT
    for name in ("motion", "sharpness", "ssim_last", "flicker"):
        assert values[name] == pytest.approx(1)
    assert values["memory_gain"] == 0


@pytest.mark.parametrize("control", CONTROLS, ids=lambda step: step.__name__)
def test_what_is_known_to_drift_fails(control):
    _, measured = run(control)
    assert missed(measured) >= CONTROLS[control]


def test_numbers_are_those_of_the_single_measures():
    """Against the functions that evaluate.py scores clips with."""

    def off(state, moment):
        return state, moment.target // 2 + 20

    _, measured = run(off, 1)
    target = loop().target
    known = streaming.score(target // 2 + 20, target)
    for name in ("psnr", "ssim", "sharpness", "still"):
        np.testing.assert_allclose(
            getattr(measured, name), getattr(known, name), rtol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(
        measured.colour[0, 0],
        np.mean(np.asarray(target[0, 0] // 2 + 20, float) - target[0, 0], (0, 1)) / 255,
        atol=1e-5,
    )
    assert np.all(measured.forgetful == metrics.PSNR_LIMIT)
    np.testing.assert_allclose(measured.one_shot, measured.psnr)


def test_pictures_of_chosen_moments_are_kept():
    seen, _ = run(perfect, 2, moments=(1, 10, PERIOD + 1, 99))
    target = np.asarray(loop().target)
    np.testing.assert_array_equal(seen.kept[:3], target[[0, 9, 0]])
    assert not np.any(seen.kept[3])  # it was never reached


def test_only_the_frames_with_a_whole_past_open_a_style_with_memory():
    _, measured = run(perfect)
    measured.psnr[:5] = 20.0  # what has no past has another target
    assert "drift_last_minus_first" not in missed(measured, history=5)
    measured.psnr[:5] = 100.0
    measured.psnr[-PERIOD:][5:8] = 99.0
    assert "drift_last_minus_first" in missed(measured, history=5)


def test_a_loop_without_motion_is_not_asked_for_any():
    _, measured = run(perfect)
    held = jax.tree.map(lambda x: x[:, 1:], measured)
    values = verdict.drift_values(held, PERIOD)
    assert "motion" not in values and values["flicker"] == pytest.approx(1)


def test_frames_must_be_whole_loops():
    _, measured = run(perfect, 3)
    with pytest.raises(ValueError, match="whole loops"):
        verdict.drift_values(measured, PERIOD)


def test_slope_and_its_interval():
    times = np.arange(40.0)
    exact = slope_with_interval(times, 3 - 0.25 * times)
    np.testing.assert_allclose([exact.value, exact.low, exact.high], -0.25)
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(40):
        noise = rng.normal(size=42)
        smooth = np.convolve(noise, np.ones(3) / 3, "valid")
        found = slope_with_interval(times, 0.01 * times + smooth)
        inside += found.low <= 0.01 <= found.high
        assert found.low < found.value < found.high
    assert 32 <= inside < 40  # neighbours are alike, and the interval knows most of it
    with pytest.raises(ValueError, match="three"):
        slope_with_interval(times[:2], times[:2])


def test_a_free_run_is_judged_by_its_worst_stream():
    _, measured = run(perfect, 4)
    values = verdict.free_values(measured, 10)
    assert values == {
        "free_frames": 4 * PERIOD - 10,
        "free_psnr": metrics.PSNR_LIMIT,
        "free_spread": pytest.approx(1),
    }
    assert all(check.passed for check in verdict.free_checks(values, "x"))
    measured.psnr[10 + 20 :, 1] = 90.0
    measured.spread[-1, 0] = 0.1
    values = verdict.free_values(measured, 10)
    assert values["free_frames"] == 20 and values["free_spread"] == pytest.approx(0.1)
    assert 90 < values["free_psnr"] < metrics.PSNR_LIMIT
    assert not any(check.passed for check in verdict.free_checks(values, "x"))
