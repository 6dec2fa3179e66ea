"""Flow matching: steps land where they should, times and sizes are as drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import flow

SHAPE = (2, 3, 4, 4, 5)


def draws():
    data, noise = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    return data, noise


def at(time):
    return jnp.full(SHAPE[:2], time, jnp.float32)


@pytest.mark.parametrize("steps", flow.STEP_COUNTS)
def test_steps_along_a_perfect_prediction_land_on_the_data(steps):
    data, x = draws()
    noise = x
    for time in flow.times_of_steps(steps):
        np.testing.assert_allclose(x, flow.noisy(data, noise, at(time)), atol=1e-5)
        x = flow.take_step(x, data, at(time), at(1 / steps))
    np.testing.assert_allclose(x, data, atol=1e-5)


@pytest.mark.parametrize("steps", flow.STEP_COUNTS)
def test_the_last_step_is_the_prediction(steps):
    predicted, x = draws()
    last = flow.times_of_steps(steps)[-1]
    found = flow.take_step(x, predicted, at(last), at(1 / steps))
    np.testing.assert_allclose(found, predicted, atol=1e-5)


def test_frames_move_at_their_own_times():
    data, noise = draws()
    tau = jnp.array([[0.0, 0.5, 1.0], [0.25, 1.0, 0.0]])
    x = flow.noisy(data, noise, tau)
    np.testing.assert_array_equal(x[0, 0], noise[0, 0])
    np.testing.assert_array_equal(x[1, 1], data[1, 1])
    np.testing.assert_allclose(x[0, 1], (data[0, 1] + noise[0, 1]) / 2, atol=1e-6)


def test_velocity_is_the_slope_of_the_path_and_finite_at_its_end():
    data, noise = draws()
    x = flow.noisy(data, noise, at(0.3))
    found = flow.velocity(x, data, at(0.3))
    np.testing.assert_allclose(found, data - noise, atol=1e-5)
    assert jnp.isfinite(flow.velocity(data, noise, at(1.0))).all()


def test_times_are_in_range_and_their_kinds_have_their_shares():
    mix = flow.NoiseMix(0.35, 0.20, 0.35, 0.25, 0.75)
    tau = np.asarray(flow.draw_times(jax.random.key(1), 8192, 8, mix))
    assert tau.shape == (8192, 8)
    assert tau.min() == 0 and tau.max() <= 1
    silent = (tau == 0).all(axis=1)
    shared = (tau == tau[:, :1]).all(axis=1) & ~silent
    rest = tau[~silent & ~shared]
    # Three standard errors of a share from 8192 clips are 0.016.
    assert silent.mean() == pytest.approx(0.35, abs=0.016)
    assert shared.mean() == pytest.approx(0.20, abs=0.016)
    assert tau[shared].mean() == pytest.approx(0.5, abs=0.02)
    assert (rest == 0).mean() == pytest.approx(0.35, abs=0.016)
    uniform = 1 - 0.35 - 0.25
    assert (rest > 0.75).mean() == pytest.approx(0.25 + uniform / 4, abs=0.016)


def test_noise_with_an_offset_is_as_wide_and_its_frames_differ_in_the_mean():
    key, shape = jax.random.key(0), (64, 3, 16, 16, 4)
    plain, noise = flow.draw_noise(key, shape), flow.draw_noise(key, shape, 0.5)
    np.testing.assert_array_equal(plain, jax.random.normal(key, shape))
    means = noise.mean((2, 3))  # by clip, frame and channel: 768 of them
    assert float(plain.mean((2, 3)).std()) == pytest.approx(1 / 16, rel=0.1)
    assert float(means.std()) == pytest.approx(0.5, rel=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    assert abs(np.corrcoef(means[:, 0].ravel(), means[:, 1].ravel())[0, 1]) < 0.2


@pytest.mark.parametrize(
    "mix, low, high",
    [
        (flow.NoiseMix(all_noise=1.0, shared=0.0), 0.0, 0.0),
        (flow.NoiseMix(0.0, 0.0, frame_noise=0.0, frame_clean=1.0), 0.75, 1.0),
        (flow.NoiseMix(0.0, 0.0, frame_noise=1.0, frame_clean=0.0), 0.0, 0.0),
    ],
)
def test_a_mix_of_one_kind_is_of_that_kind(mix, low, high):
    tau = flow.draw_times(jax.random.key(2), 64, 4, mix)
    assert low <= tau.min() and tau.max() <= high


def test_step_sizes_are_trained_ones_and_do_not_overshoot():
    tau = jax.random.uniform(jax.random.key(3), (2048, 4))
    tau = tau.at[:256].set(0.0)
    found = np.asarray(flow.draw_step_sizes(jax.random.key(4), tau))
    sizes = [1 / count for count in flow.STEP_COUNTS]
    assert set(np.unique(found)) == set(np.array(sizes, np.float32))
    smallest = min(sizes)
    fits = np.asarray(tau) + smallest <= 1
    assert (found + tau <= 1)[fits].all()
    # Nearer to the data than any step there are finished frames, of every stream.
    for size in sizes:
        assert (found[~fits] == size).mean() == pytest.approx(1 / 3, abs=0.05)
    # From pure noise every number of steps is trained alike.
    for size in sizes:
        assert (found[:256] == size).mean() == pytest.approx(1 / 3, abs=0.05)


def test_weights_are_positive_bounded_and_grow_towards_the_data():
    weight = np.asarray(flow.frame_weight(jnp.linspace(0, 1, 101)[None]))[0]
    assert weight[0] == pytest.approx(1.0) and weight[-1] == pytest.approx(11.0)
    assert (np.diff(weight) > 0).all()


def test_times_of_steps_divide_the_path():
    assert flow.times_of_steps(1) == (0.0,)
    assert flow.times_of_steps(4) == (0.0, 0.25, 0.5, 0.75)
