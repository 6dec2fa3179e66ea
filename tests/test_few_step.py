"""Targets that ask a denoiser for agreement with itself."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_clips import BATCH, CLEAN, ROOT, compiled, config_module, data
from toy_model import MODEL

from mirage_jax import flow
from mirage_jax.errors import MirageError
from mirage_jax.training import denoiser as training
from mirage_jax.training.denoiser import DenoiserLoss
from mirage_jax.training.few_step import (
    OBJECTIVES,
    FewStep,
    ask,
    consistency_targets,
    draw_whole_steps,
    shortcut_targets,
)

SHAPE = (6, 5, 2, 2, 3)


def drawn() -> tuple[jax.Array, jax.Array]:
    clean, noise = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    return clean, noise


def test_whole_steps_begin_where_a_stream_begins_them():
    tau, step = draw_whole_steps(jax.random.key(1), jnp.zeros((256, 8)))
    assert (step == step[:, :1]).all(), "a stream has one number of steps"
    assert set(np.unique(step)) == {1.0, 0.5}, "a quarter has no half that is trained"
    assert (tau + step <= 1).all()
    np.testing.assert_array_equal(tau % step, 0)
    assert set(np.unique(tau[step == 0.5])) == {0.0, 0.5}


def test_two_halves_of_a_shortcut_are_one_step():
    """By a model whose answer depends on where it is asked."""
    clean, noise = drawn()
    tau, step = draw_whole_steps(jax.random.key(2), jnp.zeros(SHAPE[:2]))
    x = flow.noisy(clean, noise, tau)

    def predict(x: Any, tau: Any, step: Any) -> Any:
        return clean + (0.3 * tau + 0.2 * step)[..., None, None, None] * x

    target = shortcut_targets(x, tau, step, predict)
    there = x
    for begin in (tau, tau + step / 2):
        found = predict(there, begin, step / 2)
        there = flow.take_step(there, found, begin, step / 2)
    in_one = flow.take_step(x, target, tau, step)
    np.testing.assert_allclose(in_one, there, atol=1e-5)


def test_the_truth_agrees_with_itself():
    clean, noise = drawn()
    tau, step = draw_whole_steps(jax.random.key(3), jnp.zeros(SHAPE[:2]))

    def predict(x: Any, tau: Any, step: Any) -> Any:
        return clean

    x = flow.noisy(clean, noise, tau)
    found = shortcut_targets(x, tau, step, predict)
    np.testing.assert_allclose(found, clean, atol=1e-5)
    path = lambda tau: flow.noisy(clean, noise, tau)  # noqa: E731
    found = consistency_targets(path, clean, tau, 0.25, predict)
    np.testing.assert_array_equal(found, clean)


def test_consistency_looks_ahead_on_the_path_and_ends_at_the_data():
    clean, noise = drawn()
    tau = jnp.broadcast_to(jnp.linspace(0, 1, SHAPE[1])[None], SHAPE[:2])
    path = lambda tau: flow.noisy(clean, noise, tau)  # noqa: E731
    found = consistency_targets(
        path, clean, tau, 0.4, lambda x, tau, step: x + step.max()
    )
    np.testing.assert_allclose(found[:, :3], path(tau + 0.4)[:, :3] + 0.25, atol=1e-5)
    np.testing.assert_array_equal(found[:, 3:], clean[:, 3:])


@pytest.mark.parametrize(
    "change", [{"objective": "distil"}, {"share": 1.5}, {"real": -0.1}]
)
def test_what_there_is_not_is_refused(change):
    with pytest.raises(MirageError, match=str(next(iter(change.values())))):
        FewStep(**change)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_share_of_the_clips_takes_part(objective):
    few = FewStep(objective, share=0.5)
    clean, noise = drawn()
    tau, step = jnp.full(SHAPE[:2], 0.3), jnp.full(SHAPE[:2], 0.25)

    def zeros(rows: Any, noisy: Any, past: Any, tau: Any, step: Any) -> Any:
        return 0 * noisy

    key = jax.random.key(4)
    wanted, times, steps = ask(key, few, clean, clean, noise, tau, step, zeros)
    asked = (wanted != clean).any((1, 2, 3, 4))
    assert (
        asked.sum() == few.count(len(clean)) == (0 if objective == "regression" else 3)
    )
    moved = (times != tau).any(1) | (steps != step).any(1)
    assert (moved == asked).all() if objective == "shortcut" else not moved.any()
    # A quarter of such a target is the data.
    if objective == "consistency":
        np.testing.assert_allclose(wanted[asked], 0.25 * clean[asked], atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_agreement_moves_the_loss_away_from_the_data(objective, monkeypatch):
    """By a model that always says the same."""
    losses = {}
    for real in (1.0, 0.0):
        loss = DenoiserLoss(
            history=CLEAN, few_step=FewStep(objective, share=1.0, real=real)
        )
        run = training.make_denoiser_loss(MODEL, BATCH, loss, jnp.float32)

        def constant(params: Any, model: Any, noisy: Any, *_: Any, **__: Any) -> Any:
            return params * jnp.ones_like(noisy)

        monkeypatch.setattr(training, "denoise_clip", constant)
        operands: Any = (jnp.float32(3), jax.random.key(3), data(), jnp.int32(0))
        losses[real] = float(compiled(run, *operands)(*operands)[0])
    if objective == "regression":
        assert losses[0.0] == losses[1.0]
    else:
        # Agreeing with itself it is right, but where consistency ends at the data.
        assert losses[0.0] < 0.8 * losses[1.0]


def test_each_objective_is_a_stage_of_its_own():
    config = config_module()
    plain = config.get_config("pixel").to_dict()
    for objective in config.OBJECTIVES:
        stage = config.get_config(f"pixel_{objective}").to_dict()
        FewStep(**stage["few_step"])
        assert stage["few_step"]["objective"] == objective
        changed = {name for name in plain if plain[name] != stage[name]}
        assert changed == {"few_step", "workdir"}
    script = (ROOT / "scripts" / "train_few_step.sh").read_text()
    assert set(re.findall(r"pixel_(\w+)", script)) == set(config.OBJECTIVES)
    with pytest.raises(ValueError, match="pixel_consistency"):
        config.get_config("pixel_distil")
