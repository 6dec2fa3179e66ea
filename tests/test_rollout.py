"""Self-roll-outs: they are the stream, learn within a frame, and lower the loss."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from toy_model import SIDE

from mirage_jax.data.store import synthetic_store
from mirage_jax.errors import MirageError
from mirage_jax.stream import open_stream, style_latent
from mirage_jax.training.clips import ClipBatch, DenoiserData
from mirage_jax.training.denoiser import DenoiserLoss
from mirage_jax.training.history import HistoryAugmentation
from mirage_jax.training.rollout import (
    RollOut,
    make_rollout_loss,
    roll_out,
    training_stream,
)

MODEL = toy_model.MODEL
FRAMES, STREAMS = 7, 2
# How many frames it is for is an operand below: one program is clean and dirty.
DIRT = HistoryAugmentation(repeat=0.0, drop=0.0)
MODES = [("lagged", 2), ("merged", 2), ("clean", 1)]


def compiled(function: Any, *operands: Any) -> Any:
    lowered = jax.jit(function).lower(*operands)
    return lowered.compile()


def latents(seed: int = 0) -> np.ndarray:
    shape = (STREAMS, FRAMES, *toy_model.CELLS)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ARRIVED = np.ones((STREAMS, FRAMES), bool)
ARRIVED[1, 4:] = False
ANCHORED = np.array([True, False])


def unrolled(mode: tuple[str, int], together: int = 0) -> Any:
    """(weights, source latents, share of `DIRT`) -> styled frames 0, 5 and 6."""
    rollout = RollOut(*mode, opening=1, closing=2, anchored=0.5, together=together)
    stream = training_stream(rollout, SIDE, STREAMS, jnp.float32)
    prompt = toy_model.prompts(STREAMS)

    def run(weights, source, dirty=0.0):
        return roll_out(
            weights,
            open_stream(
                {"denoiser": weights}, MODEL, stream, prompt, jax.random.key(0)
            ),
            source,
            jnp.asarray(ARRIVED),
            prompt,
            jnp.asarray(ANCHORED),
            jax.random.key(7),
            model=MODEL,
            stream=stream,
            rollout=rollout,
            history=dataclasses.replace(DIRT, probability=dirty),
        )

    return run


@functools.cache
def program(mode: tuple[str, int]) -> Any:
    """`unrolled`, compiled once for all tests."""
    return compiled(unrolled(mode), toy_model.params()["denoiser"], latents(), 0.0)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode[0]}/{mode[1]}")
def test_a_roll_out_is_the_stream(mode):
    """Stream by stream, for an anchored one and one that goes on in free run."""
    weights, source = toy_model.params(), latents()
    found = program(mode)(weights["denoiser"], source, 0.0)
    for number in range(STREAMS):
        stream = toy_model.settings(
            steps=mode[1],
            commit=mode[0],
            batch=STREAMS,
            anchor=bool(ANCHORED[number]),
            hold=0,
        )
        state = open_stream(
            weights, MODEL, stream, toy_model.prompts(STREAMS), jax.random.key(0)
        )
        step = functools.partial(style_latent, model=MODEL, stream=stream)
        step = compiled(step, weights, state, source[:, 0], ARRIVED[:, 0])
        styled = []
        for frame in range(FRAMES):
            state = step(weights, state, source[:, frame], ARRIVED[:, frame])
            styled.append(np.asarray(state.styled[number]))
        wanted = np.stack([styled[frame] for frame in (0, 5, 6)])
        np.testing.assert_allclose(found[number], wanted, atol=2e-4)


@pytest.fixture(scope="module")
def slopes() -> tuple[Any, np.ndarray]:
    """Of the last frame: by weights, and by the source latents [T]; lagged, 2 steps."""

    def last(weights, source):
        frames = unrolled(("lagged", 2))(weights, source)
        return jnp.square(frames[0, -1] - 1.0).mean()

    operands = toy_model.params()["denoiser"], jnp.asarray(latents())
    by_weights, by_source = compiled(jax.grad(last, (0, 1)), *operands)(*operands)
    return by_weights, np.asarray(jnp.abs(by_source[0]).sum((1, 2, 3)))


def test_every_weight_learns_from_a_roll_out(slopes):
    """Prompt encoder and conditioning too, which a stream uses once and then stores."""
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes[0]):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(slope).all(), name
        # This stream always has a source.
        assert np.abs(slope).max() > 0 or "missing" in name, name


def test_groups_are_of_one_size_and_no_larger_than_wanted():
    found = [RollOut(together=n).group for n in (0, 1, 4, 5, 11, 12, 99)]
    assert found == [12, 1, 4, 4, 6, 12, 12]


def test_frames_one_by_one_teach_what_all_at_once_do(slopes):
    def last(weights, source):
        frames = unrolled(("lagged", 2), together=1)(weights, source)
        return jnp.square(frames[0, -1] - 1.0).mean()

    operands = toy_model.params()["denoiser"], jnp.asarray(latents())
    found = compiled(jax.grad(last), *operands)(*operands)

    def same(one, other):
        # A sum in another order: small beside the largest slope of the array.
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max() + 1e-9)

    jax.tree.map(same, found, slopes[0])


def test_gradients_stay_within_a_frame_but_history_matters(slopes):
    _, by_frame = slopes
    assert by_frame[-1] > 0
    assert not by_frame[:-1].any()
    weights, source = toy_model.params()["denoiser"], latents()
    run = program(("lagged", 2))
    changed = source.copy()
    changed[:, -2] += 1.0
    difference = run(weights, changed, 0.0)[0, -1] - run(weights, source, 0.0)[0, -1]
    assert np.abs(difference).max() > 1e-3


def test_corrupted_history_reaches_the_frames_after_it():
    weights, source = toy_model.params()["denoiser"], latents()
    run = program(("lagged", 2))
    clean, found = (run(weights, source, dirty) for dirty in (0.0, 1.0))
    np.testing.assert_allclose(found[:, 0], clean[:, 0], atol=1e-5)
    assert (np.abs(found - clean)[:, 1:].max(axis=(2, 3, 4)) > 1e-3).all()


STYLES = ("sepia", "screen_print")
BATCH = ClipBatch(size=32, frames=4, source_dropped=0.3)


@functools.cache
def data() -> DenoiserData:
    rng = np.random.default_rng(0)
    return DenoiserData(
        store=synthetic_store(jax.random.key(0)),
        codec=toy_model.params()["codec"],
        embeddings=jnp.asarray(rng.normal(size=(2, 3, 384)), jnp.float32),
        counts=jnp.full(2, 3, jnp.int32),
        only=STYLES,
    )


@pytest.mark.slow
def test_a_few_steps_on_one_batch_lower_the_error_of_the_stream():
    loss = DenoiserLoss(pixel_l1=0.5, decoded=2)
    rollout = RollOut("lagged", 1, opening=0, closing=2)
    run = make_rollout_loss(MODEL, BATCH, loss, rollout, jnp.float32)

    def descend(params, key, data):
        (value, metrics), gradient = jax.value_and_grad(run, has_aux=True)(
            params, key, data, jnp.int32(0)
        )
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient)))
        params = jax.tree.map(lambda p, g: p - 0.05 * g / norm, params, gradient)
        return params, value, metrics

    params, key = toy_model.params()["denoiser"], jax.random.key(0)
    step = compiled(descend, params, key, data())
    values = []
    for _ in range(12):
        params, value, metrics = step(params, key, data())
        values.append(float(value))
    assert values[-1] < 0.9 * values[0]
    names = {"latent", "pixel_l1", "pixel_mse", "first", "last"}
    assert metrics.keys() == {f"{name}_lagged_1_32" for name in names}
    assert all(np.isfinite(x) and x >= 0 for x in metrics.values())


def test_wrong_roll_outs_are_refused():
    with pytest.raises(MirageError, match="closing=0"):
        RollOut(closing=0)
    with pytest.raises(MirageError, match="together=-1"):
        RollOut(together=-1)
    short = dataclasses.replace(BATCH, frames=3)
    run = make_rollout_loss(MODEL, short, DenoiserLoss(), RollOut(), jnp.float32)
    with pytest.raises(MirageError, match="3 frames is too short"):
        jax.eval_shape(
            run, toy_model.params()["denoiser"], jax.random.key(0), data(), 0
        )
    with pytest.raises(MirageError, match="steps=3"):
        training_stream(RollOut(steps=3), 32, 1, jnp.float32)
