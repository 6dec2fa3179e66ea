"""VGG features: loading, shapes, Gram matrices, the perceptual loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import MirageError
from mirage_jax.training.vgg import (
    STYLE_LAYERS,
    WIDTHS,
    features,
    gram,
    load_vgg,
    perceptual_loss,
    random_vgg,
)

NARROW = (4, 6, 8, 10)
RANDOM = jax.jit(random_vgg, static_argnums=1)
FEATURES = jax.jit(features, static_argnums=2)
PERCEPTUAL = jax.jit(perceptual_loss, static_argnums=3)


@pytest.fixture(scope="module")
def vgg():
    return RANDOM(jax.random.key(0), NARROW)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (2, 32, 48, 3))


def save_as_shipped(path, params):
    """Writes weights under the names of the original file."""
    stored: dict[str, Any] = {}
    for name, layer in params.items():
        index = int(name[6]) - 1
        prefix = f"block{name[4]}/layers/conv2d" + (f"_{index}" if index else "")
        stored[f"{prefix}/vars/0"] = np.asarray(layer["kernel"], np.float16)
        stored[f"{prefix}/vars/1"] = np.asarray(layer["bias"], np.float16)
    np.savez(path, allow_pickle=False, **stored)


def test_features_have_the_stated_shapes(vgg, images):
    found = FEATURES(vgg, images, jnp.float32)
    assert tuple(found) == STYLE_LAYERS
    for level, layer in enumerate(STYLE_LAYERS):
        assert found[layer].shape == (2, 32 >> level, 48 >> level, NARROW[level])
        assert float(found[layer].min()) >= 0.0


def test_features_in_bfloat16_follow_float32(vgg, images):
    narrow = FEATURES(vgg, images)["relu4_1"]
    wide = FEATURES(vgg, images, jnp.float32)["relu4_1"]
    assert narrow.dtype == jnp.bfloat16
    error = jnp.abs(narrow.astype(jnp.float32) - wide).mean()
    assert float(error / jnp.abs(wide).mean()) < 0.05


def test_features_refuse_sides_that_do_not_pool(vgg):
    with pytest.raises(ValueError, match="36"):
        features(vgg, jnp.zeros((1, 36, 32, 3)))


def test_gram_equals_the_mean_of_outer_products():
    feature = jax.random.normal(jax.random.key(2), (2, 3, 5, 4))
    flat = np.asarray(feature).reshape(2, 15, 4)
    expected = np.stack([f.T @ f / 15 for f in flat])
    np.testing.assert_allclose(gram(feature), expected, rtol=1e-5, atol=1e-6)


def test_gram_is_float32_and_forgets_places():
    feature = jax.random.normal(jax.random.key(3), (1, 4, 4, 3), jnp.bfloat16)
    moved = jnp.roll(feature, (1, 2), (1, 2))
    assert gram(feature).dtype == jnp.float32
    np.testing.assert_allclose(gram(feature), gram(moved), rtol=1e-4, atol=1e-5)


def test_perceptual_loss_is_zero_only_for_the_target_and_grows(vgg, images):
    def loss(amount):
        other = images + amount * jnp.sin(40.0 * images)
        return float(PERCEPTUAL(vgg, other, images, jnp.float32))

    assert loss(0.0) == 0.0
    assert 0.0 < loss(0.02) < loss(0.2)


def test_perceptual_loss_gives_the_target_no_gradient(vgg, images):
    def loss(a, b):
        return PERCEPTUAL(vgg, a, b, jnp.float32)

    for_output, for_target = jax.jit(jax.grad(loss, (0, 1)))(images + 0.1, images)
    assert float(jnp.abs(for_output).max()) > 0.0
    assert not for_target.any()


def test_load_reads_what_was_saved(tmp_path):
    params = RANDOM(jax.random.key(4), WIDTHS)
    save_as_shipped(tmp_path / "vgg.npz", params)
    loaded = load_vgg(tmp_path / "vgg.npz")
    assert loaded.keys() == params.keys()
    for name, layer in params.items():
        assert loaded[name]["kernel"].dtype == np.float32
        np.testing.assert_allclose(loaded[name]["kernel"], layer["kernel"], atol=1e-3)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(MirageError, match="gone.npz"):
        load_vgg(tmp_path / "gone.npz")


def test_load_names_wrong_shapes(tmp_path, vgg):
    save_as_shipped(tmp_path / "small.npz", vgg)
    with pytest.raises(MirageError, match=r"\(3, 3, 3, 4\)"):
        load_vgg(tmp_path / "small.npz")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04broken"])
def test_load_refuses_damaged_files(tmp_path, content):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(MirageError, match="cannot be read"):
        load_vgg(path)
