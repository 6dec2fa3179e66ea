"""Styles with variants: how they look, and that the opening noise names the variant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from still_scene import halved, scene

from mirage_jax.data.prompts import PROMPTS
from mirage_jax.data.teachers import (
    all_styles,
    apply_long,
    comparable_styles,
    find_style,
    variant_looks,
)
from mirage_jax.data.varied_styles import VARIANTS, VARIED_STYLES
from mirage_jax.errors import MirageError
from mirage_jax.live.presets import presets
from mirage_jax.styler import NEURAL_STYLES
from mirage_jax.training.variants import name_variant, variant_of_noise

NAMES = tuple(VARIED_STYLES)


@functools.cache
def looks(name: str, size: int) -> np.ndarray:
    """All variants of a scene, [variants, size, size, 3]."""
    look = jax.jit(VARIED_STYLES[name])
    picture = jnp.asarray(scene(size, size))
    return np.stack([look(picture, jnp.int32(v)) for v in range(VARIANTS)])


@pytest.mark.parametrize("name", NAMES)
def test_range_shape_and_sizes(name):
    large, small = looks(name, 256), looks(name, 128)
    assert large.shape == (VARIANTS, 256, 256, 3) and large.dtype == np.float32
    assert np.isfinite(large).all()
    assert large.min() >= -1e-5 and large.max() <= 1 + 1e-5
    for one, other in zip(large, small, strict=True):
        assert np.abs(halved(one) - other).mean() < 0.04


@pytest.mark.parametrize("name", NAMES)
def test_variants_are_far_apart_and_a_mean_of_them_is_none(name):
    variants = looks(name, 128)
    for one in range(VARIANTS):
        for other in range(one):
            error = np.square(variants[one] - variants[other]).mean()
            assert -10 * np.log10(error) < 27, (one, other)
    style = find_style(name, all_styles())
    source = jnp.asarray(scene(128, 128))[None].repeat(VARIANTS, axis=0)

    @jax.jit
    def measure(source, styled):
        return jnp.square(styled[None] - variant_looks(style, source)).mean((2, 3, 4)).T

    errors = np.asarray(measure(source, jnp.asarray(variants)))
    assert (errors.argmin(axis=1) == np.arange(VARIANTS)).all()
    assert np.diag(errors).max() < 1e-9
    mean = np.broadcast_to(variants.mean(axis=0), variants.shape)
    assert measure(source, mean).min() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_keeps_its_variant_and_clips_differ(name):
    style = find_style(name, all_styles())
    frames = np.broadcast_to(scene(64, 64), (3, 64, 64, 3))
    drawn = set()
    for seed in range(12):
        source, styled = apply_long(style, frames, jax.random.key(seed), chunk=2)
        np.testing.assert_array_equal(source, frames)
        np.testing.assert_allclose(styled, styled[:1].repeat(3, axis=0), atol=1e-6)
        drawn.add(np.round(styled[0], 3).tobytes())
    assert len(drawn) == VARIANTS


def test_a_style_of_one_look_has_no_variants():
    sepia = find_style("sepia", comparable_styles())
    with pytest.raises(MirageError, match="'sepia'.*screen_print"):
        variant_looks(sepia, jnp.zeros((1, 8, 8, 3)))


def test_every_style_with_a_teacher_has_wordings_and_a_button():
    with_formulas = tuple(style.name for style in comparable_styles())
    trainable = tuple(style.name for style in all_styles())
    assert trainable == with_formulas + NAMES
    assert set(PROMPTS) == set(trainable) | set(NEURAL_STYLES)
    assert {preset["name"] for preset in presets()} == set(PROMPTS)


def test_noise_names_each_variant_equally_often_and_stays_normal():
    cells = toy_model.CELLS
    random = np.random.default_rng(0)
    noise = jnp.asarray(random.normal(size=(4000, *cells)), jnp.float32)
    free = np.bincount(variant_of_noise(noise), minlength=VARIANTS) / len(noise)
    np.testing.assert_allclose(free, 1 / VARIANTS, atol=0.03)
    variant = jnp.asarray(random.integers(0, VARIANTS, 4000))
    named = name_variant(noise, variant)
    np.testing.assert_array_equal(variant_of_noise(named), variant)
    flat = np.asarray(named).reshape(len(noise), -1)
    assert np.abs(flat.mean(axis=0)).max() < 0.08
    assert np.abs(np.cov(flat.T) - np.eye(flat.shape[1])).max() < 0.12
    again = name_variant(named, variant)
    np.testing.assert_allclose(again, named, atol=1e-6)
