"""The denoiser: positions, masks, causality by gradients, sizes."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import CELLS, REACH, RING

from mirage_jax import denoiser, transformer
from mirage_jax.config import MODELS, DenoiserConfig, ModelConfig, model_config
from mirage_jax.errors import MirageError

MODEL = toy_model.MODEL
denoise_clip: Any = denoiser.denoise_clip
T = REACH + RING


def test_patchify_has_an_inverse_and_goes_row_by_row():
    x = jnp.arange(2 * 3 * 4 * 6 * 5.0).reshape(2, 3, 4, 6, 5)
    tokens = transformer.patchify(x, 2)
    assert tokens.shape == (2, 3, 6, 20)
    np.testing.assert_array_equal(transformer.unpatchify(tokens, 4, 6, 2), x)
    np.testing.assert_array_equal(tokens[1, 2, 4], x[1, 2, 2:4, 2:4].ravel())


def test_rope_sees_only_where_one_token_lies_from_another():
    height, width, heads = 4, 5, 16
    angles = transformer.rope_angles(height, width, heads)
    q, k = jax.random.normal(jax.random.key(0), (2, heads))
    everywhere = functools.partial(jnp.broadcast_to, shape=(1, height * width, 1, 16))
    turned_q = transformer.rotate(everywhere(q.reshape(1, 1, 1, -1)), angles)[0, :, 0]
    turned_k = transformer.rotate(everywhere(k.reshape(1, 1, 1, -1)), angles)[0, :, 0]
    norms = jnp.linalg.norm(turned_q, axis=-1)
    np.testing.assert_allclose(norms, jnp.linalg.norm(q), rtol=1e-5)
    dots = np.asarray(turned_q @ turned_k.T)
    by_offset: dict[tuple[int, int], list[np.ndarray]] = {}
    for i, j in np.ndindex(dots.shape):
        offset = (j // width - i // width, j % width - i % width)
        by_offset.setdefault(offset, []).append(dots[i, j])
    for offset, values in by_offset.items():
        np.testing.assert_allclose(values, values[0], atol=1e-4, err_msg=str(offset))
    # Different offsets are told apart, rows from columns too.
    firsts = [values[0] for values in by_offset.values()]
    assert len(np.unique(np.round(firsts, 4))) > 0.9 * len(firsts)


def test_places_are_the_same_function_of_the_frame_at_every_size():
    small = np.asarray(transformer.place_features(4, 6)).reshape(4, 6, -1)
    large = np.asarray(transformer.place_features(12, 18)).reshape(12, 18, -1)
    # The middle token of three by three has the centre of the one it stands for.
    np.testing.assert_allclose(large[1::3, 1::3], small, atol=1e-5)
    rows = small.reshape(24, -1)
    apart = np.abs(rows[:, None] - rows[None]).max(-1) + np.eye(24)
    assert apart.min() > 0.1, "no two tokens have the same features"


@pytest.mark.parametrize("part", ["place", "octave"])
def test_place_and_frame_size_matter(part):
    weights = toy_model.params()["denoiser"]
    name = "stem" if part == "place" else "conditioning"
    changed = jax.tree.map(jnp.copy, weights)
    if part == "place":
        changed[name]["place"]["kernel"] *= 0
    else:
        # The last row of the first layer reads the octave; 64 pixels are -3 of them.
        kernel = changed[name]["Dense_0"]["kernel"]
        changed[name]["Dense_0"]["kernel"] = kernel.at[-1].set(0)
    operands = [x[:1, :1] for x in clip_operands()[:5]] + [toy_model.prompts(1)]
    anchored = jnp.zeros(1, bool)

    def run(weights):
        return denoise_clip(weights, MODEL, *operands, anchored)

    program = jax.jit(run).lower(weights).compile()
    assert np.abs(program(weights) - program(changed)).max() > 1e-3


def clip_operands(batch=2):
    """Noisy latents, sources, presence, times, step sizes, prompts."""
    noisy, source = jax.random.normal(jax.random.key(1), (2, batch, T, *CELLS))
    tau = jax.random.uniform(jax.random.key(2), (batch, T))
    present = jnp.ones((batch, T), bool)
    return noisy, source, present, tau, 0.25 + 0 * tau, toy_model.prompts(batch)


@functools.cache
def influence():
    """Largest |d prediction of frame t / d input of frame s|: [B, 2, T, T].

    Of two equal clips the second has an anchor; inputs are noisy and source latents.
    """
    noisy, source, present, tau, size, prompt = (x[:1] for x in clip_operands())
    weights = toy_model.params()["denoiser"]

    def of(noisy, source, anchored):
        def run(noisy, source):
            predicted = denoise_clip(
                weights, MODEL, noisy, source, present, tau, size, prompt, anchored
            )
            return jnp.square(predicted).sum(axis=(0, 2, 3, 4))

        parts = jax.jacrev(run, argnums=(0, 1))(noisy, source)  # [T, 1, T, h, w, C]
        return jnp.stack([jnp.abs(x).max(axis=(1, 3, 4, 5)) for x in parts])

    lowered = jax.jit(of).lower(noisy, source, jnp.zeros(1, bool))
    program = lowered.compile()
    found = [program(noisy, source, jnp.full(1, flag)) for flag in (False, True)]
    return np.asarray(jnp.stack(found))


def test_no_frame_sees_a_later_one():
    later = np.triu(np.ones((T, T), bool), 1)
    assert not influence()[:, :, later].any()


def test_a_frame_sees_its_window_and_what_the_layers_hand_on():
    age = np.arange(T)[:, None] - np.arange(T)[None]
    plain = influence()[0]
    assert (plain[:, (age >= 0) & (age <= RING)] > 1e-6).all()
    assert (plain[:, (age >= 0) & (age <= REACH)] > 0).all()
    assert not plain[:, age > REACH].any()


def test_an_anchor_is_seen_by_all_and_nothing_else_old_is():
    age = np.arange(T)[:, None] - np.arange(T)[None]
    anchored = influence()[1]
    assert (anchored[:, :, 0] > 1e-6).all()
    assert not anchored[:, :, 1:][:, age[:, 1:] > REACH].any()


@functools.cache
def predict():
    def run(*operands):
        weights = toy_model.params()["denoiser"]
        anchored = jnp.zeros(2, bool)
        return denoise_clip(weights, MODEL, *operands, anchored)

    program = jax.jit(run).lower(*clip_operands())
    return program.compile()


def test_times_steps_prompts_and_clips_matter_to_their_own_clip_only():
    noisy, source, present, tau, size, prompt = clip_operands()
    before = predict()(noisy, source, present, tau, size, prompt)
    assert before.shape == noisy.shape and before.dtype == jnp.float32
    changes = [
        (noisy.at[0, 0].add(1), source, present, tau, size, prompt),
        (noisy, source.at[0, 0].add(1), present, tau, size, prompt),
        (noisy, source, present.at[0, 0].set(False), tau, size, prompt),
        (noisy, source, present, tau.at[0, 0].set(0.9), size, prompt),
        (noisy, source, present, tau, size.at[0, 0].set(1.0), prompt),
        (noisy, source, present, tau, size, prompt[jnp.array([1, 1])]),
    ]
    for number, operands in enumerate(changes):
        after = predict()(*operands)
        assert np.abs(after[0, 0] - before[0, 0]).max() > 1e-3, number
        np.testing.assert_array_equal(after[1], before[1], err_msg=str(number))


def test_a_missing_source_is_not_read():
    noisy, source, present, tau, size, prompt = clip_operands()
    present = present.at[:, 4:].set(False)
    found = [
        predict()(noisy, latents, present, tau, size, prompt)
        for latents in (source, source.at[:, 4:].set(50.0))
    ]
    np.testing.assert_array_equal(*found)


def test_fresh_weights_predict_nothing_at_all():
    # Zero heads and gates: training starts from the mean picture, without a shock.
    def run(key, *operands):
        weights = denoiser.init_denoiser(key, MODEL)
        anchored = jnp.zeros(2, bool)
        return denoise_clip(weights, MODEL, *operands, anchored)

    operands = jax.random.key(0), *clip_operands()
    program = jax.jit(run).lower(*operands).compile()
    assert not program(*operands).any()


@pytest.mark.parametrize(
    "name, least, most",
    [
        ("test", 0.01, 0.2),
        ("default", 15, 22),
        ("base", 120, 145),
        ("lsd_880m", 850, 900),
    ],
)
def test_named_sizes_have_the_parameters_they_promise(name, least, most):
    init = functools.partial(denoiser.init_denoiser, config=MODELS[name])
    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert least < sum(math.prod(leaf.shape) for leaf in leaves) / 1e6 < most


def test_sizes_are_found_by_name():
    assert model_config("default") == ModelConfig()
    with pytest.raises(MirageError, match="'gigantic'.*lsd_880m"):
        model_config("gigantic")


@pytest.mark.parametrize(
    "change", [{"width": 33}, {"heads": 16}, {"heads": 0}, {"width": 100, "heads": 10}]
)
def test_heads_that_cannot_be_rotated_are_refused(change):
    sizes = {"width": 32, "heads": 2} | change
    with pytest.raises(ValueError, match="self.width="):
        DenoiserConfig(**sizes)


@pytest.mark.parametrize("width", [0, 2, 10])
def test_a_refine_width_that_does_not_split_is_refused(width):
    with pytest.raises(ValueError, match=f"refine_width={width}"):
        DenoiserConfig(refine_width=width)


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODEL.denoiser.width = 64  # type: ignore[misc]
