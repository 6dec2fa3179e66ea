"""The style network, its loss, the paintings, and a short training on the CPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from mirage_jax.data.store import synthetic_store
from mirage_jax.errors import MirageError
from mirage_jax.styler import (
    NEURAL_STYLES,
    StylerConfig,
    init_styler,
    load_styler,
    save_styler,
    styler_apply,
)
from mirage_jax.training.styler import (
    PAINTINGS,
    Painting,
    StylerData,
    StylerLoss,
    load_painting,
    make_styler_loss,
    painting_grams,
    picture_grid,
    styler_loss,
)
from mirage_jax.training.vgg import random_vgg

SMALL = StylerConfig(styles=("a", "b"), width=8, blocks=1, upsample_widths=(6, 4))
INIT = jax.jit(init_styler, static_argnums=1)
APPLY = jax.jit(styler_apply, static_argnames=("style", "dtype"))


@pytest.fixture(scope="module")
def params():
    """Small weights whose styles differ, as after training."""
    fresh = INIT(jax.random.key(0), SMALL)
    noise = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: np.asarray(x + 0.1 * noise.normal(size=x.shape), np.float32), fresh
    )


@pytest.fixture(scope="module")
def images():
    pictures = np.random.default_rng(2).uniform(size=(3, 32, 48, 3))
    return pictures.astype(np.float32)


@pytest.fixture(scope="module")
def vgg():
    return jax.jit(random_vgg, static_argnums=1)(jax.random.key(3), (4, 6, 8, 10))


def test_every_style_has_a_painting():
    assert tuple(PAINTINGS) == NEURAL_STYLES
    assert len({painting.file for painting in PAINTINGS.values()}) == 5


def test_default_network_is_small_enough():
    shapes = jax.eval_shape(init_styler, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) <= 450_000


def test_result_has_the_shape_and_range_of_a_picture(params, images):
    painted = APPLY(params, images, style=0)
    assert painted.shape == images.shape and painted.dtype == jnp.float32
    assert 0.0 <= float(painted.min()) and float(painted.max()) <= 1.0


def test_a_picture_does_not_depend_on_its_company(params, images):
    together = APPLY(params, images, style=1)
    alone = APPLY(params, images[1:2], style=1)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_styles_differ_and_read_only_their_own_weights(params, images):
    assert float(jnp.abs(APPLY(params, images, 0) - APPLY(params, images, 1)).max()) > 0

    def total(params):
        return styler_apply(params, images, 0).sum()

    gradient = jax.jit(jax.grad(total))(params)
    for layer in (gradient["stem"], gradient["up1"], gradient["up2"]):
        assert jnp.abs(layer["shift"][0]).max() > 0
        assert not layer["shift"][1].any() and not layer["scale"][1].any()
    assert not gradient["out"]["bias"][1].any()


def test_shifting_by_the_stride_shifts_the_result(params):
    """Where the edges are too far away to tell."""
    middle = np.full((1, 96, 96, 3), 0.5, np.float32)
    moved = middle.copy()
    square = np.random.default_rng(4).uniform(size=(1, 16, 16, 3))
    middle[:, 40:56, 40:56] = square
    moved[:, 44:60, 32:48] = square
    shifted = np.roll(APPLY(params, middle, 0), (4, -8), (1, 2))
    np.testing.assert_allclose(APPLY(params, moved, 0), shifted, atol=1e-4)


def test_bfloat16_follows_float32(params, images):
    narrow = APPLY(params, images, 0, dtype=jnp.bfloat16)
    assert narrow.dtype == jnp.float32
    assert float(jnp.abs(narrow - APPLY(params, images, 0)).mean()) < 0.02


def test_contrast_and_brightness_hardly_matter(params, images):
    dim = (0.2 + 0.5 * images).astype(np.float32)
    np.testing.assert_allclose(
        APPLY(params, dim, 0), APPLY(params, images, 0), atol=0.02
    )


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 33, 3)])
def test_odd_sizes_are_refused(params, shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        styler_apply(params, jnp.zeros(shape), 0)


@pytest.mark.parametrize("style", [-1, 2])
def test_unknown_styles_are_refused(params, style):
    with pytest.raises(ValueError, match=f"style={style}"):
        styler_apply(params, jnp.zeros((1, 32, 32, 3)), style)


def test_weights_come_back_as_half_precision_of_themselves(tmp_path):
    params = INIT(jax.random.key(5), StylerConfig())
    path = tmp_path / "styler.safetensors"
    save_styler(path, params, StylerConfig())
    loaded = load_styler(path)
    assert str(jax.tree.structure(loaded)) == str(jax.tree.structure(params))
    for found, wanted in zip(
        jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.asarray(wanted, np.float16))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_missing_damaged_and_foreign_weights_are_named(tmp_path, params):
    with pytest.raises(MirageError, match="gone.safetensors"):
        load_styler(tmp_path / "gone.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(MirageError, match="bad.safetensors"):
        load_styler(tmp_path / "bad.safetensors")
    save_styler(tmp_path / "other.safetensors", params, SMALL)
    with pytest.raises(MirageError, match="paints a, b"):
        load_styler(tmp_path / "other.safetensors")


def save_picture(path, height, width):
    """A picture whose red grows to the right and whose green grows downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    Image.fromarray(pixels).save(path)


def test_paintings_keep_their_proportions(tmp_path):
    save_picture(tmp_path / "wide.png", 60, 120)
    pixels = load_painting(tmp_path, Painting("wide.png", trim=0.0), 64)
    assert pixels.shape == (2, 64, 64, 3) and pixels.dtype == np.float32
    assert 0.0 <= pixels.min() and pixels.max() <= 1.0
    # Two crops: the left half and the right half, both as high as the painting.
    red, green = pixels[:, 32, :, 0], pixels[:, :, 32, 1]
    np.testing.assert_allclose(red[:, 0], [0.0, 0.5], atol=0.02)
    np.testing.assert_allclose(red[:, -1], [0.5, 1.0], atol=0.02)
    assert green[:, 0].max() < 0.02 and green[:, -1].min() > 0.98


def test_small_paintings_go_on_by_reflection(tmp_path):
    save_picture(tmp_path / "small.png", 50, 50)
    small = Painting("small.png", trim=0.0, scale=0.5)
    (pixels,) = load_painting(tmp_path, small, 64)
    np.testing.assert_array_equal(pixels[:, 15], pixels[:, 16])
    np.testing.assert_array_equal(pixels[14], pixels[17])


def test_missing_and_broken_paintings_are_named(tmp_path):
    with pytest.raises(MirageError, match="gone.jpg"):
        load_painting(tmp_path, Painting("gone.jpg"), 64)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(MirageError, match="text.jpg"):
        load_painting(tmp_path, Painting("text.jpg"), 64)


def test_loss_terms_add_up_with_their_weights(params, images, vgg):
    square = images[:2, :32, :32]
    grams = painting_grams(vgg, [square[:1], square[1:]], jnp.float32)
    weights = StylerLoss(content=2.0, style=3.0, variation=5.0, stability=7.0)
    pictures = jnp.tile(square, (2, 2, 2, 1))
    value, metrics = jax.jit(styler_loss, static_argnums=5)(
        params, jax.random.key(6), pictures, vgg, grams, weights
    )
    total = sum(getattr(weights, f) * metrics[f] for f in dataclasses.asdict(weights))
    np.testing.assert_allclose(value, total, rtol=1e-5)
    by_style = (metrics["style_0"] + metrics["style_1"]) / 2
    np.testing.assert_allclose(metrics["style"], by_style, rtol=1e-5)
    assert all(float(term) > 0 for term in metrics.values())


def test_uneven_batches_are_refused(params, images, vgg):
    grams = painting_grams(vgg, [images[:1, :32, :32], images[1:2, :32, :32]])
    with pytest.raises(ValueError, match="3 pictures for 2 styles"):
        styler_loss(params, jax.random.key(0), images, vgg, grams, StylerLoss())


def test_training_lowers_the_loss(images, vgg):
    pictures = np.tile(images[:1, :32, :32], (1, 2, 2, 1))
    grams = painting_grams(vgg, [np.full((1, 64, 64, 3), 0.2, np.float32)], jnp.float32)
    optimiser = optax.adam(1e-2)

    @jax.jit
    def step(params, state, pictures, vgg, grams):
        def loss(params):
            key = jax.random.key(0)
            return styler_loss(
                params, key, pictures, vgg, grams, StylerLoss(), jnp.float32
            )

        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params = INIT(jax.random.key(9), dataclasses.replace(SMALL, styles=("a",)))
    state, history = optimiser.init(params), []
    for _ in range(20):
        params, state, value = step(params, state, pictures, vgg, grams)
        history.append(float(value))
    assert history[-1] < 0.7 * history[0]


def test_training_step_takes_any_store_and_names_its_metrics(params, vgg):
    """Traced only: a store of clips and photographs, of one of them."""
    store = synthetic_store(jax.random.key(10), clips=2, length=4)
    clips = dataclasses.replace(store, photos=store.photos[:0])
    photos = dataclasses.replace(
        store, frames=store.frames[:0], clip_start=store.clip_start[:0]
    )
    paintings = [np.zeros((1, 64, 64, 3), np.float32)] * 2
    grams = {"64": painting_grams(vgg, paintings, jnp.float32)}
    loss = make_styler_loss(64, 3, StylerLoss())
    for one in (store, clips, photos):
        value, metrics = jax.eval_shape(
            loss, params, jax.random.key(11), StylerData(one, vgg, grams), 0
        )
        assert value.shape == () and value.dtype == jnp.float32
        assert {"content_64", "style_64", "style_1_64", "stability_64"} <= set(metrics)


def test_grid_shows_pictures_and_all_styles(params, vgg):
    store = synthetic_store(jax.random.key(10), clips=2, length=4)
    clips = dataclasses.replace(store, photos=store.photos[:0])
    data = StylerData(clips, vgg, {})
    key = jax.random.key(12)
    grid = picture_grid(params, data, key, 32, rows=2)
    assert grid.shape == (64, 96, 3) and grid.dtype == np.uint8
    painted = APPLY(params, grid[:32, :32][None] / np.float32(255.0), 1)
    np.testing.assert_allclose(grid[:32, 64:] / 255.0, painted[0], atol=0.02)
