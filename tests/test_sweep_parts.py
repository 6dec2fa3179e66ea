"""What sweeps are made of: values and draws, workers and their GPUs, the plot."""

import random
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import sweep_workers
from experiments.line_plot import even_axis
from experiments.sweep_axes import Range, Values, draws, grid, parse_axes, parse_axis
from experiments.sweep_metrics import Measured, Metric
from experiments.sweep_plot import draw_plot
from experiments.sweep_runs import Outcome, Run
from experiments.sweep_workers import LocalWorkers, local_gpus, worker_count
from mirage_jax.errors import MirageError
from mirage_jax.results import Result


@pytest.mark.parametrize(
    "text, values",
    [
        ("1e-4,3e-4", Values(("1e-4", "3e-4"))),
        ("(64,),(64,32)", Values(("(64,)", "(64,32)"))),
        ("../a,../b", Values(("../a", "../b"))),
        ("1..8", Range(1, 8, whole=True)),
        ("-0.5..0.5", Range(-0.5, 0.5)),
        ("log:1e-5..1e-3", Range(1e-5, 1e-3, log=True)),
        ("log:16..1024", Range(16, 1024, log=True, whole=True)),
    ],
)
def test_values_are_lists_or_ranges(text, values):
    axis = parse_axis(f"--config.a={text}")
    assert axis.flag == "--config.a" and axis.values == values


@pytest.mark.parametrize(
    "text",
    [
        *("a=1", "--a", "--a=", "--a=1,1", "--a=1,,2", "--a=1..", "--a=..2"),
        *("--a=3..3", "--a=1..x", "--a=log:0..1", "--a=log:5", "--a=1..2,5"),
        *("--a=1..nan", "--a=0..inf", "--a=log:-1..1"),
    ],
)
def test_bad_values_are_one_line_that_shows_them(text):
    with pytest.raises(MirageError) as error:
        parse_axis(text)
    assert f"--grid={text}" in str(error.value) and "\n" not in str(error.value)


def test_a_flag_stands_on_one_axis():
    with pytest.raises(MirageError, match="--a is given by --grid twice"):
        parse_axes(["--a=1", "--b=1", "--a=2"])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_has_every_combination_once(lengths):
    axes = parse_axes(
        [f"--f{n}={','.join(map(str, range(k)))}" for n, k in enumerate(lengths)]
    )
    found = grid(axes)
    assert len(set(found)) == len(found) == np.prod(lengths)
    assert all(
        [flag for flag, _ in one] == [axis.flag for axis in axes] for one in found
    )


@given(
    st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.booleans(), st.integers(0, 2**31)
)
def test_draws_of_numbers_stay_in_their_range(low, factor, log, seed):
    low, high = float(f"{low:.4g}"), float(f"{low * factor:.6g}")
    value = float(Range(low, high, log).draw(random.Random(seed)))
    assert low <= value <= high


@given(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.integers(0, 2**31))
def test_draws_of_whole_numbers_are_whole(low, more, log, seed):
    drawn = Range(low, low + more, log, whole=True).draw(random.Random(seed))
    assert low <= int(drawn) <= low + more


def test_logarithmic_draws_spread_over_the_decades():
    drawn = draws(parse_axes(["--a=log:1e-6..1"]), 400, seed=3)
    small = np.mean([float(value) < 1e-3 for [(_, value)] in drawn])
    assert 0.4 < small < 0.6


def test_draws_depend_on_seed_and_number_and_come_once():
    axes = parse_axes(["--a=0.0..1.0", "--b=x,y"])
    assert draws(axes, 9, seed=1)[:4] == draws(axes, 4, seed=1)
    assert not set(draws(axes, 9, seed=1)) & set(draws(axes, 9, seed=2))
    assert sorted(draws(axes[1:], 50, seed=0)) == [(("--b", "x"),), (("--b", "y"),)]


def test_names_are_plain_short_and_different(tmp_path):
    names = [
        Run("s", (), (("--config.data", value),), tmp_path).name
        for value in ("runs/a b", "runs/a_b", "x" * 300)
    ]
    assert len(set(names)) == 3
    assert all(
        len(name) < 100 and "/" not in name and " " not in name for name in names
    )


def test_gpus_are_counted_without_jax(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert local_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    listing = types.SimpleNamespace(stdout="GPU 0: A card\nGPU 1: A card\n")
    monkeypatch.setattr(sweep_workers.subprocess, "run", lambda *a, **k: listing)
    assert local_gpus() == ["0", "1"]


def test_gpus_are_shared_out(monkeypatch, tmp_path):
    given_to = []

    class Process:
        def poll(self):
            return 0

    def start(arguments, folder, environment):
        given_to.append(environment.get("CUDA_VISIBLE_DEVICES"))
        return Process()

    monkeypatch.setattr(sweep_workers, "start_process", start)
    workers = LocalWorkers(2, ["0", "1", "2", "3", "4"])
    runs = [Run("s", (), (("--a", str(n)),), tmp_path) for n in range(3)]
    workers.start(runs[0]), workers.start(runs[1])
    assert given_to == ["0,2,4", "1,3"] and not workers.has_room()
    assert {run for run, _ in workers.ended()} == set(runs[:2])
    assert workers.start(runs[2]) in given_to
    assert worker_count(None, 4) == 4 and worker_count(None, 0) == 1
    with pytest.raises(MirageError, match="--workers=3 for 2 GPU"):
        worker_count(3, 2)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_an_axis_encloses_its_values_in_even_steps(values):
    axis = even_axis(values)
    spread = max(axis[-1] - axis[0], 1e-9)
    assert axis[0] <= min(values) + 1e-6 * spread
    assert axis[-1] >= max(values) - 1e-6 * spread
    assert 2 <= len(axis) <= 9
    assert np.allclose(np.diff(axis), axis[1] - axis[0])


def plotted(*found):
    picture = draw_plot(found, Metric("loss"))
    assert picture is not None
    return np.asarray(picture)


def test_the_plot_draws_curves_and_points_and_nothing_of_nothing(tmp_path):
    runs = [Run("s", (), (("--a", str(n)),), tmp_path) for n in range(3)]
    loss = {"loss": Result("loss", 0.5, "", "lower")}
    curve = Measured(runs[0], Outcome(0, 9.0), loss, [(1.0, 2.0), (8.0, 0.5)])
    point = Measured(runs[1], Outcome(0, 4.0), loss)
    failed = Measured(runs[2], Outcome(1, 1.0), {})
    assert draw_plot([failed], Metric("loss")) is None
    assert np.array_equal(plotted(curve), plotted(curve, failed))
    blue, orange = (0, 114, 178), (213, 94, 0)
    both = plotted(curve, point).reshape(-1, 3).tolist()
    assert list(blue) in both and list(orange) in both
