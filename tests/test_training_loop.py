"""The training loop: averaging, schedule, exact resume, and every way to stop."""

import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mirage_jax.errors import MirageError
from mirage_jax.training.checkpoint import Checkpoints
from mirage_jax.training.loop import train
from mirage_jax.training.optimiser import (
    MUON_UPDATE,
    TrainConfig,
    learning_rate_at,
    optimiser,
)
from mirage_jax.training.signals import StopSignal
from mirage_jax.training.step import TrainState, init_state

CONFIG = TrainConfig(
    steps=6,
    learning_rate=0.1,
    warmup_steps=2,
    log_every=1,
    picture_every=0,
    checkpoint_every=3,
)
PARAMS = {"w": jnp.zeros((4, 3)), "b": jnp.zeros((3,))}
DATA = {"w": np.arange(12, dtype=np.float32).reshape(4, 3) / 12}


def loss(params, key, data, step):
    x = jax.random.normal(key, (8, 4))
    error = x @ params["w"] + params["b"][None] - x @ data["w"]
    return jnp.square(error).mean(), {"size": jnp.square(x).mean()}


def run(
    workdir: pathlib.Path,
    config: TrainConfig = CONFIG,
    choose: Callable[[int], int] = lambda step: 0,
    **kwargs: Any,
) -> TrainState:
    losses = kwargs.pop("losses", [loss])
    return train(workdir, config, PARAMS, losses, choose, DATA, **kwargs)


def records(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses_of(workdir: pathlib.Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in records(workdir)]


def same(a: TrainState, b: TrainState) -> bool:
    def equal(x: jax.Array, y: jax.Array) -> bool:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        return bool((np.asarray(x) == np.asarray(y)).all())

    return all(jax.tree.leaves(jax.tree.map(equal, a, b)))


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pathlib.Path, TrainState]:
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, run(workdir, samples=[8])


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rate_rises_stays_and_falls(decay):
    config = TrainConfig(
        learning_rate=2.0,
        warmup_steps=10,
        decay_start=0.5,
        decay=decay,
        final_fraction=0.1,
    )
    rates = [learning_rate_at(config, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:51] == pytest.approx([2.0] * 42)
    assert all(a > b for a, b in zip(rates[50:], rates[51:], strict=False))
    assert rates[75] == pytest.approx(1.1)  # half way down, on both curves
    assert rates[100] == pytest.approx(0.2)
    assert learning_rate_at(config, 1000, 1.7) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"minutes": -1.0},
        {"decay": "sudden"},
        {"ema": 1.5},
        {"learning_rate": math.nan},
        {"log_every": 0},
    ],
)
def test_bad_settings_are_named(bad):
    (name, value) = next(iter(bad.items()))
    with pytest.raises(MirageError, match=f"{name}={value!r}"):
        TrainConfig(**bad)


def test_metrics_and_files(unbroken):
    workdir, state = unbroken
    lines = records(workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert {"loss", "size", "gradient_norm", "samples_per_s"} <= line.keys()
        rate = learning_rate_at(CONFIG, line["step"] - 1, (line["step"] - 1) / 6)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-4)  # five digits
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert int(state.step) == 6
    assert list((workdir / "tensorboard").iterdir())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))


def test_the_callers_parameters_stay_as_they_were(unbroken):
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(PARAMS))


def test_bfloat16_parameters_are_trained_in_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    state = init_state(CONFIG, params)
    leaves = jax.tree.leaves((state.params, state.ema))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_a_killed_run_goes_on_exactly(unbroken, tmp_path):
    class Kill(Exception):
        pass

    def choose(step):
        if step == 5:
            raise Kill
        return 0

    with pytest.raises(Kill):
        run(tmp_path, choose=choose)
    assert [step for step, _ in losses_of(tmp_path)] == [1, 2, 3]
    # A kill can also leave lines behind that are later than the checkpoint, or torn.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 7.0}\n{"step": 5, "lo')
    state = run(tmp_path)
    assert losses_of(tmp_path) == losses_of(unbroken[0])
    assert same(state, unbroken[1])
    # Once more: nothing is left to do.
    assert same(run(tmp_path), state)
    assert losses_of(tmp_path) == losses_of(unbroken[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits(number, unbroken, tmp_path, capsys):
    before = signal.getsignal(number)

    def choose(step):
        if step == 1:
            os.kill(os.getpid(), number)
        return 0

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, choose=choose)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) == before
    message = capsys.readouterr().err.splitlines()[-1]
    assert number.name in message and "step 2" in message and str(tmp_path) in message
    run(tmp_path)
    assert losses_of(tmp_path) == losses_of(unbroken[0])


def test_a_second_ctrl_c_interrupts_at_once():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_and_keeps_the_last_good_checkpoint(where, unbroken, tmp_path):
    def poisoned(params, key, data, step):
        value, metrics = loss(params, key, data, step)
        if where == "loss":
            return jnp.where(step == 4, jnp.nan, value), metrics
        # The derivative of sqrt at 0 is infinite, and 0 times it is NaN.
        root = jnp.sqrt(jnp.where(step == 4, 0.0, 1.0) * (1 + params["b"][0] ** 2))
        return value + 0.0 * root, metrics

    with pytest.raises(MirageError, match="step 5: .*not finite") as stopped:
        run(tmp_path, losses=[poisoned])
    message = str(stopped.value)
    assert "\n" not in message and str(tmp_path) in message and "step 3" in message
    if where == "loss":
        run(tmp_path)
        assert losses_of(tmp_path) == losses_of(unbroken[0])


def test_a_damaged_checkpoint_is_passed_over(unbroken, tmp_path, capsys):
    run(tmp_path)
    folder = tmp_path / "checkpoints"

    def damage(step):
        files = (p for p in (folder / str(step)).rglob("*") if p.is_file())
        largest = max(files, key=lambda p: p.stat().st_size)
        content = bytearray(largest.read_bytes())
        for place in range(len(content) // 3, len(content), 7):
            content[place] ^= 0x55
        largest.write_bytes(content)

    damage(6)
    state = run(tmp_path)
    assert str(folder / "6") in capsys.readouterr().err
    assert losses_of(tmp_path) == losses_of(unbroken[0])
    assert same(state, unbroken[1])
    damage(3)
    damage(6)
    with pytest.raises(MirageError, match=str(folder)):
        run(tmp_path)
    assert same(run(tmp_path, restore=False), unbroken[1])


def test_a_changed_value_is_noticed(tmp_path):
    saved, other = ({"x": np.full((300,), value, np.float32)} for value in (1, 2))
    for name, tree in (("a", saved), ("b", other)):
        checkpoints = Checkpoints(tmp_path / name)
        checkpoints.save(1, tree, 0.0)
        checkpoints.close()
    # The arrays of b under the record of a: readable, but not what was saved.
    arrays = tmp_path / "a" / "1" / "arrays"
    arrays.rename(tmp_path / "old")
    (tmp_path / "b" / "1" / "arrays").rename(arrays)
    checkpoints = Checkpoints(tmp_path / "a")
    with pytest.raises(MirageError, match="delete that folder"):
        checkpoints.restore(saved)
    checkpoints.close()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 5):
        checkpoints.save(step, {"x": np.zeros(step, np.float32)}, 1.5)
    checkpoints.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]
    with pytest.raises(MirageError, match=r"x is float32\[4\] there and float32\[5\]"):
        checkpoints.restore({"x": np.zeros(5, np.float32)})
    found = checkpoints.restore({"x": np.ones(4, np.float32)})
    assert found is not None
    assert found[1] == 1.5 and not found[0]["x"].any()
    checkpoints.close()


def test_an_unwritable_workdir_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MirageError, match="file"):
        run(tmp_path / "file")


def test_the_average_follows_the_weights(tmp_path):
    states = []

    def spy(ema, data, key):
        states.append(jax.tree.map(np.array, ema))
        return np.full((8, 16, 3), 7, np.uint8)

    config = dataclasses.replace(CONFIG, steps=2, picture_every=1, ema=0.15)
    final = run(tmp_path, config, pictures=spy)
    one_step = dataclasses.replace(CONFIG, steps=1)
    first = run(tmp_path / "first", one_step)
    # (1 + 0) / (10 + 0) = 0.1 is below 0.15, (1 + 1) / (10 + 1) is above it.
    for name in PARAMS:
        ema = 0.9 * np.asarray(first.params[name])
        np.testing.assert_allclose(states[0][name], ema, rtol=1e-5)
        ema = 0.15 * ema + 0.85 * np.asarray(final.params[name])
        np.testing.assert_allclose(final.ema[name], ema, rtol=1e-5)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["0000001.png", "0000002.png"]
    assert np.asarray(Image.open(pictures[0])).shape == (8, 16, 3)


def test_minutes_bound_the_run_and_end_the_schedule(tmp_path):
    config = dataclasses.replace(
        CONFIG, minutes=0.02, warmup_steps=1, log_every=20, checkpoint_every=0
    )
    state = run(tmp_path, config, losses=[loss, loss], choose=lambda step: step % 2)
    last = records(tmp_path)[-1]
    assert int(state.step) > 20
    assert last["elapsed_s"] < 1.2 + 2.0  # generous: the machine may be busy
    assert last["learning_rate"] < 0.5 * CONFIG.learning_rate
    # The time is spent: a second call only reads the checkpoint.
    assert same(run(tmp_path, config), state)


def test_muon_takes_steps_of_one_size_in_every_direction():
    config = dataclasses.replace(CONFIG, optimiser="muon", weight_decay=0.0)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {
        "block": {"kernel": draw(2, 6, 16), "bias": draw(2, 16)},
        "conv": {"kernel": draw(3, 3, 2, 4)},
        "head": {"kernel": draw(6, 4)},
    }
    # Gradients of very unequal strength in their directions.
    strength = jnp.geomspace(0.05, 1.0, 6)[None, :, None]
    gradient = jax.tree.map(lambda x: 0.1 * draw(*x.shape), params)
    gradient["block"]["kernel"] *= strength
    gradient["conv"]["kernel"] *= jnp.geomspace(0.05, 1.0, 4)[None, None, None]
    tx = optimiser(config)
    updates, _ = tx.update(gradient, tx.init(params), params)
    for name, matrix in (
        ("block", updates["block"]["kernel"][0]),
        ("conv", updates["conv"]["kernel"].reshape(18, 4)),
    ):
        spread = np.linalg.svd(np.asarray(matrix), compute_uv=False)
        # Five Newton-Schulz steps bring all singular values near one another only.
        assert spread.max() < 3 * spread.min(), name
        rms = np.sqrt(np.square(np.asarray(matrix)).mean())
        assert rms == pytest.approx(MUON_UPDATE, rel=0.4), name
    # Dense layers at the ends and biases go to AdamW: its first step is the sign, and
    # with Nesterov's momentum a little longer than the rate.
    for leaf, slope in (
        (updates["head"]["kernel"], gradient["head"]["kernel"]),
        (updates["block"]["bias"], gradient["block"]["bias"]),
    ):
        np.testing.assert_allclose(leaf, -1.474 * np.sign(slope), rtol=1e-2)


def test_a_run_with_muon_learns_and_its_checkpoints_can_be_read(tmp_path):
    config = dataclasses.replace(CONFIG, optimiser="muon")
    params = {"layers": {"kernel": jax.random.normal(jax.random.key(1), (2, 4, 4))}}

    def quadratic(params, key, data, step):
        return jnp.square(params["layers"]["kernel"]).mean(), {}

    def train_it():
        return train(tmp_path, config, params, [quadratic], lambda step: 0, DATA)

    state = train_it()
    before, after = (x["layers"]["kernel"] for x in (params, state.params))
    assert np.linalg.norm(after) < 0.95 * np.linalg.norm(before)
    assert same(train_it(), state), "the finished run is only read"


def test_two_devices_average_their_gradients():
    program = """
        import sys, tempfile
        import jax, jax.numpy as jnp, numpy as np
        sys.path.insert(0, "tests")
        from test_training_loop import CONFIG, DATA, PARAMS, loss
        from mirage_jax.training import loop
        from mirage_jax.training.optimiser import learning_rate_at, optimiser
        from mirage_jax.training.step import init_state
        import dataclasses
        assert jax.local_device_count() == 2
        config = dataclasses.replace(CONFIG, steps=2)
        with tempfile.TemporaryDirectory() as folder:
            found = loop.train(folder, config, PARAMS, [loss], lambda s: 0, DATA)
        assert len(found.params["w"].devices()) == 1
        # The same by hand, on one device.
        tx, state = optimiser(config), init_state(config, PARAMS)
        params, memory = state.params, state.opt_state
        gradient = jax.jit(jax.grad(loss, has_aux=True))
        for step in range(2):
            key = jax.random.fold_in(state.key, step)
            both = [
                gradient(params, jax.random.fold_in(key, d), DATA, step)[0]
                for d in range(2)
            ]
            mean = jax.tree.map(lambda a, b: (a + b) / 2, *both)
            assert not np.allclose(both[0]["w"], both[1]["w"])
            updates, memory = tx.update(mean, memory, params)
            rate = learning_rate_at(config, step, step / 2)
            params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
        for name in params:
            np.testing.assert_allclose(found.params[name], params[name], rtol=1e-5)
        print("equal")
    """
    flags = "--xla_force_host_platform_device_count=2"
    if given := os.environ.get("XLA_FLAGS"):
        flags = f"{given} {flags}"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=pathlib.Path(__file__).parent.parent,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.stdout.endswith("equal\n"), result.stderr[-3000:]
