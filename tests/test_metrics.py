"""Properties of the quality measures and of the colour baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from mirage_jax.evaluation import colour_transfer, metrics
from mirage_jax.pixels import to_floats

# Compiled: these measures run inside compiled programs, and so the tests are quicker.
PSNR, SSIM = jax.jit(metrics.psnr), jax.jit(metrics.ssim)
FIT_AFFINE = jax.jit(colour_transfer.fit_affine)
FIT_LOOKUP = jax.jit(colour_transfer.fit_lookup)


def _picture(seed=0, side=64, lead=()):
    """Smooth random pictures in [0.2, 0.8]."""
    coarse = np.random.default_rng(seed).uniform(0.2, 0.8, (*lead, 5, 5, 3))
    place = np.linspace(0, 3.999, side)
    left, part = place.astype(int), (place % 1)[:, None]
    rows = coarse[..., left, :, :] * (1 - part[..., None])
    rows = rows + coarse[..., left + 1, :, :] * part[..., None]
    whole = rows[..., left, :] * (1 - part) + rows[..., left + 1, :] * part
    return jnp.asarray(whole, jnp.float32)


def _noisy(picture, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return picture + jnp.asarray(noise, jnp.float32)


def _bytes(values):
    return jnp.asarray(np.asarray(values), jnp.uint8)


def _clip(seed=0, frames=3, side=32):
    return _bytes(np.asarray(_picture(seed, side, (frames,))) * 255)


def test_psnr_of_identical_pictures_is_the_limit():
    picture = _picture()
    assert PSNR(picture, picture) == metrics.PSNR_LIMIT


def test_psnr_of_known_errors():
    picture = _picture()
    np.testing.assert_allclose(PSNR(picture, picture + 0.1), 20.0, atol=1e-3)
    np.testing.assert_allclose(PSNR(picture, picture + 0.01), 40.0, atol=1e-2)
    noisy = PSNR(picture, _noisy(picture, 0.05))
    np.testing.assert_allclose(noisy, -20 * np.log10(0.05), atol=0.2)


@pytest.mark.parametrize("measure", [PSNR, SSIM])
def test_more_noise_is_worse(measure):
    picture = _picture()
    values = [float(measure(picture, _noisy(picture, s))) for s in (0.01, 0.03, 0.1)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[2]


@pytest.mark.parametrize("measure", [PSNR, SSIM])
def test_measures_are_symmetric_and_keep_leading_axes(measure):
    pictures = _picture(lead=(2, 3))
    noisy = _noisy(pictures, 0.05)
    values = measure(pictures, noisy)
    assert values.shape == (2, 3) and values.dtype == jnp.float32
    np.testing.assert_allclose(values, measure(noisy, pictures), rtol=1e-5)
    np.testing.assert_allclose(
        values[1, 2], measure(pictures[1, 2], noisy[1, 2]), rtol=1e-5
    )


def test_ssim_of_identical_pictures_is_one():
    np.testing.assert_allclose(SSIM(_picture(), _picture()), 1.0, atol=1e-6)
    black = jnp.zeros((32, 32, 3))
    np.testing.assert_allclose(SSIM(black, black), 1.0, atol=1e-6)


def test_ssim_equals_the_formula_over_every_window():
    """The paper's sums written out in float64."""
    x = np.asarray(metrics.luma(_picture(3, 24)), np.float64)[..., 0]
    y = np.asarray(metrics.luma(_noisy(_picture(3, 24), 0.1)), np.float64)[..., 0]
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(24 - 10):
        for j in range(24 - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * cov + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    ours = SSIM(
        jnp.asarray(x, jnp.float32)[..., None], jnp.asarray(y, jnp.float32)[..., None]
    )
    np.testing.assert_allclose(ours, np.mean(values), atol=1e-5)


def test_ssim_minds_structure_more_than_a_shift_of_brightness():
    """What the measure was invented for: two errors of the same PSNR."""
    picture = _picture(side=64) * 0.8
    shifted = picture + 0.05
    noisy = _noisy(picture, 0.05)
    assert SSIM(picture, shifted) > SSIM(picture, noisy) + 0.2


@pytest.mark.parametrize("measure", [PSNR, SSIM])
def test_wrong_pictures_are_refused(measure):
    picture = _picture()
    with pytest.raises(ValueError, match="one shape"):
        measure(picture, picture[:-1])
    with pytest.raises(ValueError, match="uint8"):
        measure(picture.astype(jnp.uint8), picture)
    if measure is SSIM:
        with pytest.raises(ValueError, match="at least 11"):
            measure(picture[:8], picture[:8])


def test_sharpness_falls_with_blur():
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    blurred = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))
    sharp = metrics.sharpness(jnp.asarray(noise / 255))
    assert metrics.sharpness(jnp.asarray(np.asarray(blurred) / 255)) < sharp / 2
    assert metrics.sharpness(jnp.full((16, 16, 3), 0.5)) == 0


def test_colour_mean_and_spread():
    picture = jnp.stack(
        [
            jnp.full((4, 8), 0.25),
            jnp.tile(jnp.array([0.0, 1.0]), (4, 4)),
            jnp.eye(4, 8),
        ],
        axis=-1,
    )
    np.testing.assert_allclose(
        metrics.colour_mean(picture), [0.25, 0.5, 0.125], atol=1e-6
    )
    spread = metrics.colour_spread(picture)
    np.testing.assert_allclose(spread[:2], [0.0, 0.5], atol=1e-6)


def test_flicker_counts_only_where_the_teacher_stands_still():
    teacher = _picture()
    moved = teacher.at[:32].add(0.2)  # the upper half moves
    ours = _picture(7)
    changed = ours.at[:32].add(0.3).at[32:].add(0.1)
    value, share = metrics.flicker(ours, changed, teacher, moved)
    np.testing.assert_allclose([value, share], [25.5**2, 0.5], rtol=1e-5)
    value, share = metrics.flicker(ours, changed, teacher, teacher + 0.2)
    assert value == 0 and share == 0


def test_a_pixel_that_stays_by_chance_is_no_place_that_stands_still():
    teacher = jnp.zeros((32, 32, 3))
    moved = teacher.at[:16, 1::2].add(0.2)  # every second column of the upper cells
    value, share = metrics.flicker(teacher, moved, teacher, moved)
    assert value == 0 and share == 0.5


def test_sides_that_are_no_cells_are_refused():
    picture = jnp.zeros((32, 24, 3))
    with pytest.raises(ValueError, match="multiples of 16"):
        metrics.cell_change(picture, picture)


def test_two_levels_stand_still_and_three_do_not_at_any_brightness():
    levels = np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (16, 1, 3))
    for change, share in ((2, 1), (3, 0)):
        frames = [to_floats(jnp.asarray(x)) for x in (levels, levels + change)]
        assert jax.jit(metrics.flicker)(*frames, *frames)[1] == share


def test_affine_fit_recovers_an_affine_map():
    source = _clip()
    gain, offset = np.array([0.5, -0.25, 1.0]), np.array([0.2, 0.6, 0.1])
    # Multiples of 4 stay whole numbers under these gains.
    source = source // 4 * 4
    exact = np.asarray(source, np.float64) * gain + offset * 255
    assert 0 < exact.min() and exact.max() < 255
    target = _bytes(exact.round())
    fitted_gain, fitted_offset = FIT_AFFINE(source, target)
    np.testing.assert_allclose(fitted_gain, gain, atol=1e-4)
    np.testing.assert_allclose(fitted_offset, offset, atol=2e-3)


def test_affine_fit_of_a_flat_channel_is_the_target_mean():
    source = jnp.full((1, 8, 8, 3), 100, jnp.uint8)
    target = jnp.zeros((1, 8, 8, 3), jnp.uint8).at[:, :4].set(200)
    gain, offset = FIT_AFFINE(source, target)
    np.testing.assert_allclose(gain, 0)
    np.testing.assert_allclose(offset, 100 / 255, atol=1e-6)


def test_lookup_recovers_any_function_of_a_channel_exactly():
    source = _clip()
    table = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint8)
    looked_up = [table[c][np.asarray(source[..., c])] for c in range(3)]
    target = _bytes(np.stack(looked_up, axis=-1))
    fitted = FIT_LOOKUP(source, target)
    styled = colour_transfer.apply_lookup(fitted, source)
    np.testing.assert_allclose(styled, target / 255, atol=1e-6)


def test_lookup_beats_the_affine_map_and_the_source():
    source, target = _clip(0), _clip(1)
    target = target // 2 + source // 3
    fitted = FIT_LOOKUP(source, target)
    styled = colour_transfer.apply_lookup(fitted, source)
    gain, offset = FIT_AFFINE(source, target)
    affine = np.asarray(source) / 255 * np.asarray(gain) + np.asarray(offset)

    def error(images):
        return np.mean((np.asarray(images) - np.asarray(target) / 255) ** 2)

    assert error(styled) < error(affine) < error(np.asarray(source) / 255)


def test_lookup_of_unseen_values_follows_the_line():
    source = jnp.zeros((1, 8, 8, 3), jnp.uint8).at[:, :4].set(100)
    target = source // 2 + 20
    table = FIT_LOOKUP(source, target)
    np.testing.assert_allclose(table[:, 50], (50 / 2 + 20) / 255, atol=1e-3)


def test_cube_follows_a_mix_of_channels_that_no_lookup_can():
    source = _clip(5)
    gray = np.asarray(source, np.float64).mean(-1, keepdims=True)
    target = _bytes(np.repeat(255 - gray, 3, axis=-1))
    cube = colour_transfer.apply_cube(colour_transfer.fit_cube(source, target), source)
    table = FIT_LOOKUP(source, target)
    lookup = colour_transfer.apply_lookup(table, source)
    truth = jnp.asarray(target / 255, jnp.float32)
    assert PSNR(cube, truth).min() > 38
    assert PSNR(lookup, truth).max() < 35
