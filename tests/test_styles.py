"""Properties of the one-frame styles and of the table of teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from still_scene import halved, scene

from mirage_jax.data.filters import blur, luma, shift, smooth_edges
from mirage_jax.data.styles import PROCEDURAL_STYLES
from mirage_jax.data.teachers import Style, apply_long, comparable_styles, find_style
from mirage_jax.errors import MirageError
from mirage_jax.styler import NEURAL_STYLES, init_styler

NAMES = tuple(PROCEDURAL_STYLES)


@pytest.fixture(scope="module")
def looks():
    """Compiled once a shape and shared by the tests."""
    return {name: jax.jit(look) for name, look in PROCEDURAL_STYLES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_range_shape_and_type(name, looks):
    ranges = [scene(64, 96), np.zeros((64, 96, 3)), np.ones((64, 96, 3))]
    noise = np.random.default_rng(0).uniform(size=(64, 96, 3))
    images = np.stack([*ranges, noise]).astype(np.float32)
    styled = np.asarray(looks[name](images))
    assert styled.shape == images.shape
    assert styled.dtype == np.float32
    assert np.isfinite(styled).all()
    assert styled.min() >= -1e-5
    assert styled.max() <= 1 + 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_leading_dimensions_and_company_do_not_matter(name, looks):
    images = np.stack([scene(64, 64), 1 - scene(64, 64)])
    together = np.asarray(looks[name](images[None]))
    alone = np.asarray(looks[name](images[1]))
    assert together.shape == (1, *images.shape)
    # An eighth of a step of 8-bit video.
    np.testing.assert_allclose(together[0, 1], alone, atol=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_looks_the_same_at_twice_the_size(name, looks):
    large = scene(384, 384)
    styled = halved(np.asarray(looks[name](large)))
    small = np.asarray(looks[name](halved(large)))
    assert np.abs(styled - small).mean() < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_a_little_camera_noise_stays_little(name, looks):
    image = scene(96, 96)
    noise = np.random.default_rng(1).normal(scale=0.005, size=image.shape)
    noisy = np.clip(image + noise, 0, 1).astype(np.float32)
    change = np.asarray(looks[name](noisy)) - np.asarray(looks[name](image))
    assert np.sqrt(np.mean(np.square(change))) < 0.04


def test_styles_differ_from_the_picture_and_from_each_other(looks):
    image = scene(96, 96)
    pictures = {"source": image}
    pictures |= {name: np.asarray(look(image)) for name, look in looks.items()}
    names = list(pictures)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            error = np.mean(np.square(pictures[one] - pictures[other]))
            # On soft shapes the two painterly looks, cartoon and oil, come closest.
            assert -10 * np.log10(error) < 28, (one, other)


def test_mosaic_tiles_are_flat_where_the_size_is_no_multiple_of_a_tile():
    styled = PROCEDURAL_STYLES["mosaic"](jnp.asarray(scene(96, 100)))
    assert styled.shape == (96, 100, 3)


# Filters


@pytest.mark.parametrize("fraction", [0.002, 0.01, 0.03, 0.1])
def test_blur_keeps_constants_and_has_the_width_asked_for(fraction):
    flat = jnp.full((128, 160, 2), 0.3)
    np.testing.assert_allclose(blur(flat, fraction), flat, rtol=1e-4)
    sigma = fraction * 128
    if sigma > 1:
        point = jnp.zeros((128, 160, 1)).at[64, 80].set(1.0)
        row = np.asarray(blur(point, fraction)).sum(axis=(0, 2))
        places = np.arange(160) - 80
        spread = np.sqrt((row * places**2).sum() / row.sum())
        assert spread == pytest.approx(sigma, rel=0.12)


def test_shift_moves_and_repeats_the_border():
    image = jnp.arange(12.0).reshape(3, 4, 1)
    moved = shift(image, 1, -2)[..., 0]
    expected = [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]
    np.testing.assert_array_equal(moved, expected)


def test_guided_filter_keeps_edges_and_removes_ripple():
    right = np.arange(96)
    step = np.where(right < 48, 0.2, 0.8)
    ripple = 0.02 * np.where(right % 2 == 0, 1.0, -1.0)
    image = np.broadcast_to((step + ripple)[None, :, None], (96, 96, 1))
    smooth = np.asarray(smooth_edges(jnp.asarray(image, jnp.float32), 0.03, 0.1))
    assert smooth[48, 49, 0] - smooth[48, 46, 0] > 0.45
    assert np.abs(np.diff(smooth[48, 10:30, 0])).max() < 0.01


# The table of teachers


def test_order_names_and_kinds():
    styles = comparable_styles()
    assert tuple(style.name for style in styles[:8]) == NAMES
    assert [style.kind for style in styles] == ["procedural"] * 8 + ["memory"] * 3
    everything = comparable_styles(init_styler(jax.random.key(0)))
    assert len(everything) == 16
    assert tuple(style.name for style in everything[8:13]) == NEURAL_STYLES
    assert all(style.history == 0 for style in everything[:13])
    assert everything[:8] == styles[:8]
    assert everything[13:] == styles[8:]


def test_neural_teacher_follows_the_contract():
    style = comparable_styles(init_styler(jax.random.key(0)))[9]
    frames = jnp.asarray(scene(64, 64))[None].repeat(2, axis=0)
    source, styled = jax.jit(style.apply)(frames, jnp.arange(2), jax.random.key(0))
    np.testing.assert_array_equal(source, frames)
    assert styled.shape == frames.shape
    np.testing.assert_allclose(styled[0], styled[1], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_still_clip_stays_still_and_repeats_exactly(name):
    style = find_style(name, comparable_styles())
    frames = np.broadcast_to(scene(64, 64), (3, 64, 64, 3))
    source, styled = apply_long(style, frames, jax.random.key(0), chunk=3)
    np.testing.assert_array_equal(source, frames)
    np.testing.assert_array_equal(styled[0], styled[2])
    _, again = apply_long(style, frames, jax.random.key(1), chunk=3)
    np.testing.assert_array_equal(styled, again)


def test_find_style_lists_the_names():
    with pytest.raises(MirageError, match=r"'watercolour'.*pencil.*signal_loss"):
        find_style("watercolour", comparable_styles())


def test_apply_long_takes_bytes_and_refuses_nonsense():
    copy = Style("copy", "procedural", 0, lambda frames, index, key: (frames, frames))
    frames = np.full((5, 32, 32, 3), 51, np.uint8)
    source, styled = apply_long(copy, frames, jax.random.key(0), chunk=2)
    np.testing.assert_allclose(styled, 0.2, rtol=1e-6)
    assert source.dtype == np.float32
    with pytest.raises(ValueError, match="chunk=0"):
        apply_long(copy, frames, jax.random.key(0), chunk=0)
    with pytest.raises(ValueError, match="at least one frame"):
        apply_long(copy, frames[:0], jax.random.key(0))


def test_luma_is_a_weighted_mean():
    np.testing.assert_allclose(luma(jnp.ones((2, 2, 3))), 1.0, rtol=1e-6)
