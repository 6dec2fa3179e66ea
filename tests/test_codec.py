"""The codec: shapes, locality, statistics, and sizes that do not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model

from mirage_jax import codec
from mirage_jax.config import MODELS

CONFIG = MODELS["test"].codec


def params():
    return toy_model.params()["codec"]


encode = jax.jit(functools.partial(codec.encode, config=CONFIG))
decode = jax.jit(functools.partial(codec.decode, config=CONFIG))
decode_raw = jax.jit(functools.partial(codec.decode_raw, config=CONFIG))
encode_raw = jax.jit(functools.partial(codec.encode_raw, config=CONFIG))


def images(*shape):
    return jax.random.uniform(jax.random.key(1), (*shape, 3))


@pytest.mark.parametrize("factor", [2, 4])
def test_space_to_depth_has_an_inverse_and_keeps_neighbours_together(factor):
    x = jnp.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    deep = codec.space_to_depth(x, factor)
    assert deep.shape == (2, 8 // factor, 12 // factor, factor * factor * 3)
    np.testing.assert_array_equal(codec.depth_to_space(deep, factor), x)
    patch = x[1, factor : 2 * factor, 2 * factor : 3 * factor]
    np.testing.assert_array_equal(deep[1, 1, 2], patch.ravel())


@pytest.mark.parametrize("size", [(32, 96), (48, 16), (64, 64)])
def test_shapes_types_and_leading_axes(size):
    height, width = size
    pictures = images(2, 3, height, width)
    latents = encode(params(), pictures)
    assert latents.shape == (2, 3, height // 16, width // 16, CONFIG.channels)
    assert latents.dtype == jnp.float32
    found = decode(params(), latents)
    assert found.shape == pictures.shape and found.dtype == jnp.float32
    # Frames do not see each other.
    alone = encode(params(), pictures[1, 2])
    np.testing.assert_allclose(alone, latents[1, 2], atol=1e-5)
    np.testing.assert_allclose(decode(params(), alone), found[1, 2], atol=1e-4)


def test_bfloat16_gives_float32_close_to_it():
    pictures = images(1, 64, 64)
    half = codec.encode(params(), pictures, CONFIG, jnp.bfloat16)
    full = encode(params(), pictures)
    assert half.dtype == jnp.float32
    # A dozen convolutions, each with rounding errors of 2 ** -8 of its values.
    error = jnp.square(half - full).mean() / jnp.square(full).mean()
    assert error**0.5 < 0.05


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (16, 8)])
def test_a_size_that_does_not_fit_is_named(size):
    with pytest.raises(ValueError, match=f"height={size[0]} and width={size[1]}"):
        codec.encode(params(), jnp.zeros((1, *size, 3)), CONFIG)


def test_a_far_pixel_changes_nothing_and_a_near_one_does():
    pictures = np.array(images(1, 256, 256))
    before = np.asarray(decode(params(), encode(params(), pictures)))
    pictures[0, 0, 0] = 1 - pictures[0, 0, 0]
    after = np.asarray(decode(params(), encode(params(), pictures)))
    changed = np.abs(before - after).max(axis=(0, 3)) > 1e-6
    assert changed[:16, :16].all()
    # Encoder and decoder together look less than 10 cells around.
    assert not changed[160:].any() and not changed[:, 160:].any()


def test_a_patch_decodes_the_same_wherever_it_lies():
    latents = jax.random.normal(jax.random.key(2), (1, 14, 14, CONFIG.channels))
    there = decode(params(), jnp.roll(latents, (1, 2), axis=(1, 2)))
    here = decode(params(), latents)
    inner = np.s_[:, 96:112, 96:112]
    moved = np.roll(there, (-16, -32), axis=(1, 2))
    np.testing.assert_allclose(moved[inner], here[inner], atol=1e-4)


def test_latents_are_bounded():
    wild = params() | {"encoder": jax.tree.map(lambda x: 30 * x, params()["encoder"])}
    raw = encode_raw(wild, images(1, 64, 64))
    assert jnp.abs(raw).max() <= codec.LATENT_LIMIT
    assert jnp.abs(raw).max() > 0.9 * codec.LATENT_LIMIT


def test_statistics_bring_latents_to_unit_spread_and_decode_undoes_them():
    pictures = images(4, 64, 64)
    raw = encode_raw(params(), pictures)
    axes = (0, 1, 2)
    measured = params() | {
        "statistics": {"mean": raw.mean(axes), "spread": raw.std(axes)}
    }
    latents = encode(measured, pictures)
    np.testing.assert_allclose(latents.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std(axes), 1, rtol=1e-3)
    np.testing.assert_allclose(
        decode(measured, latents), decode_raw(params(), raw), atol=1e-4
    )
