"""The rivals' benchmark: children, refusals, and what is recorded of each rival."""

import importlib
import json
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.call_timing import Calls
from experiments.peers import bench, jax_step, report
from experiments.peers.child import ChildFailed, in_child
from experiments.peers.clock import WARM_UP, time_calls
from experiments.peers.rivals import RIVALS, Found, Rival
from mirage_jax.results import read_results
from tests import toy_model

CALLS = Calls(2.0, 2.1, 2.2, 2.3, 1.9)


def run(out, monkeypatch, in_child, **settings):
    """The script in this process; `in_child` stands in for a child's."""
    importlib.reload(bench)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(bench, "in_child", in_child)
    chosen = {"interpret": True, "frames": 2} | settings
    with flagsaver.flagsaver(out=str(out), **chosen):
        bench.main(["bench"])
    return read_results(out)


def here(work, *operands, seconds):
    """As `in_child`, without a process."""
    return work(*operands)


def answers(**found: Any) -> Callable[..., Any]:
    """A child that has an answer for every rival, or a reason why not."""

    def child(work, *operands, seconds):
        if not operands:
            return {"device": "toy"}, None
        answer = found[operands[0]]
        if isinstance(answer, str):
            raise ChildFailed(answer)
        return answer

    return child


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(Rival, "missing", property(lambda self: list(self.needs)))


@pytest.fixture
def with_packages(monkeypatch):
    monkeypatch.setattr(Rival, "missing", property(lambda self: []))


@pytest.mark.slow
def test_the_step_is_timed_where_the_rivals_packages_are_missing(
    tmp_path, monkeypatch, capsys, without_packages
):
    monkeypatch.setattr(jax_step, "random_params", lambda *_: toy_model.params())
    out = tmp_path / "rivals.json"
    rivals = ["mirage_jax", "torch_dit", "sd_turbo_unet_taesd"]
    results = run(out, monkeypatch, here, rivals=rivals)
    times = {name.split("/")[1] for name in results if name.startswith("rival_ms")}
    assert times == {"mirage_jax", "mirage_jax_2_steps"}
    for field in ("p50", "p95", "p99", "max", "back_to_back"):
        assert all(results[f"rival_ms/{name}/{field}"] > 0 for name in times)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(toy_model.params()))
    assert results["parameters/mirage_jax"] == parameters
    assert {name.split("/")[1] for name in results} == times
    setup = json.loads(out.read_text())["setup"]
    assert "kernels=None" in setup["rivals"]["mirage_jax"]["stream"]
    assert setup["refused"]["torch_dit"] == "torch not installed"
    printed = capsys.readouterr().out
    assert "pip install torch diffusers" in printed


def test_a_rival_that_fails_or_is_wrong_fails_the_run_and_stops_no_other(
    tmp_path, monkeypatch, with_packages
):
    found = Found({"torch_dit": CALLS}, 5, 1.0, {}, {"torch_dit_pass": 0.01})
    out = tmp_path / "rivals.json"
    child = answers(sd_turbo_unet_taesd="no memory", torch_dit=found)
    rivals = ["sd_turbo_unet_taesd", "torch_dit"]
    with pytest.raises(SystemExit, match="1"):
        run(out, monkeypatch, child, rivals=rivals)
    assert read_results(out)["rival_ms/torch_dit/p50"] == 2.0
    assert json.loads(out.read_text())["setup"]["refused"] == {rivals[0]: "no memory"}
    assert (
        run(out, monkeypatch, child, rivals=rivals[1:])["error/torch_dit_pass"] == 0.01
    )
    for error in (0.5, float("inf")):
        wrong = Found({"torch_dit": CALLS}, 5, 1.0, {}, {"torch_dit_pass": error})
        assert report.wrong(wrong) == ["torch_dit_pass"]
        assert "WRONG" in report.table("torch_dit", wrong)


def test_what_is_measured_is_kept_when_the_run_is_cut_off(
    tmp_path, monkeypatch, with_packages
):
    found = Found({"torch_dit": CALLS}, 5, 1.0, {})

    def child(work, *operands, seconds):
        if operands and operands[0] == "mirage_jax":
            raise KeyboardInterrupt
        return answers(torch_dit=found)(work, *operands, seconds=seconds)

    out = tmp_path / "rivals.json"
    with pytest.raises(KeyboardInterrupt):
        run(out, monkeypatch, child, rivals=["torch_dit", "mirage_jax"])
    assert read_results(out)["rival_ms/torch_dit/max"] == 2.3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rivals": ["cuda_dit"]}, "no rival 'cuda_dit'"),
        ({"model": "huge"}, "no model size 'huge'"),
        ({"interpret": False}, "no NVIDIA GPU here"),
        ({"rivals": ["torch_dit"]}, "no rival ran"),
    ],
)
def test_what_the_user_can_cure(
    tmp_path, monkeypatch, settings, message, without_packages
):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path / "rivals.json", monkeypatch, answers(), **settings)


def test_a_child_answers_fails_dies_or_is_ended():
    assert in_child(math.sqrt, 4.0, seconds=60) == 2.0
    with pytest.raises(ChildFailed, match="ValueError"):
        in_child(math.sqrt, -1.0, seconds=60)
    with pytest.raises(ChildFailed, match="code -9"):
        in_child(signal.raise_signal, signal.SIGKILL, seconds=60)
    with pytest.raises(ChildFailed, match="no answer within 1 s"):
        in_child(time.sleep, 600, seconds=1)


def test_the_clock_waits_for_every_frame_and_then_for_the_last_alone():
    called: list[int] = []
    waited: list[int] = []

    def call():
        called.append(len(called))
        return called[-1]

    times = time_calls(call, waited.append, 5)
    assert len(called) == WARM_UP + 10
    assert waited == [*range(WARM_UP + 5), WARM_UP + 9]
    assert times.p50 <= times.p95 <= times.p99 <= times.most


def test_rivals_run_in_the_order_that_the_page_states():
    assert list(RIVALS) == [
        "sd_turbo_unet_taesd",
        "torch_dit",
        "jax_xla_cudnn",
        "mirage_jax",
    ]
