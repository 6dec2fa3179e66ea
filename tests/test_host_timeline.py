"""Host spans and kernels of a call: from profiles made by hand, and one of the CPU."""

import importlib
import os
from types import SimpleNamespace

import pytest
import toy_model
from absl import flags
from absl.testing import flagsaver

from experiments import host_spans, host_timeline, named_model
from experiments.host_spans import CALL, CALLER, OTHERS, WAIT
from mirage_jax.errors import MirageError
from mirage_jax.results import read_record


def event(name, begin, length):
    """Microseconds; the profiler counts nanoseconds."""
    return SimpleNamespace(name=name, start_ns=1e3 * begin, duration_ns=1e3 * length)


def line(name, *events):
    return SimpleNamespace(name=name, events=events)


def profile(*gpu):
    """Two calls, at 0 and at 1000, of 400 and 600 until the result is there."""
    caller = line(
        "python",
        event("copy", -50, 20),  # before any call
        event(CALL, 0, 100),
        event("Execute#id=7#", 10, 60),
        event("Execute", 20, 30),  # inside the other
        event(WAIT, 100, 300),
        event("between", 600, 10),
        event(CALL, 1000, 200),
        event("Execute", 1010, 40),
        event(WAIT, 1200, 400),
    )
    pool = line("pool", event("fusion.1", 150, 5), event("fusion_2", 1150, 15))
    planes = [SimpleNamespace(name="/host:CPU", lines=[caller, pool])]
    if gpu:
        lines = [line("Stream #1", *gpu), line("XLA Ops", event("all", 0, 900))]
        planes.append(SimpleNamespace(name="/device:GPU:0", lines=lines))
    return SimpleNamespace(planes=planes)


def test_spans_are_means_of_the_calls_in_which_they_began():
    found = host_spans.timeline_of(profile())
    assert found.calls == 2 and found.kernels is None
    assert found.returns == [100, 200] and found.waited == [400, 600]
    assert found.spans == {(CALLER, "Execute"): (50, 1), (OTHERS, "fusion"): (10, 1)}


def test_busy_time_counts_kernels_that_overlap_once():
    kernels = (
        event("copy", -10, 5),  # of the source, before the call
        *(event("a", 30, 50), event("b", 60, 40), event("c", 200, 100)),
        *(event("a", 1050, 50), event("c", 1300, 100)),
    )
    found = host_spans.timeline_of(profile(*kernels)).kernels
    assert found == host_spans.Kernels(first=40, last=350, busy=160, count=2.5)


def test_results_have_paths_and_short_spans_are_left_out():
    kernels = event("a", 30, 50), event("a", 1050, 50)
    found = host_spans.timeline_of(profile(*kernels))
    values = {r.name: r.value for r in host_spans.to_results(found, least=20)}
    assert values == {
        "call_us/traced/returns": 150,
        "call_us/traced/waited": 500,
        "kernel_us/first": 40,
        "kernel_us/last": 90,
        "kernel_us/busy": 50,
        "kernels": 1,
        "span_us/caller/Execute": 50,
        "spans/caller/Execute": 1,
    }
    told = host_spans.table(found, shown=1)
    assert "busy for 50.0 us" in told and "Execute" in told and "fusion" not in told


def test_a_profile_without_calls_is_an_error():
    with pytest.raises(MirageError, match="saw no call"):
        host_spans.timeline_of(SimpleNamespace(planes=[]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, host_timeline.GRAPHS),
        ("--xla_a=1", f"--xla_a=1 {host_timeline.GRAPHS}"),
        (host_timeline.GRAPHS[:-4] + "false", host_timeline.GRAPHS[:-4] + "false"),
    ],
)
def test_graphs_are_seen_unless_somebody_says_otherwise(monkeypatch, before, after):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    host_timeline.ask_for_graphs()
    assert os.environ["XLA_FLAGS"] == after


def run(monkeypatch, **settings):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr(named_model, "random_params", lambda *_: toy_model.params())
    importlib.reload(host_timeline)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**settings):
        host_timeline.main(["host_timeline"])


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(monkeypatch, tmp_path):
    out = tmp_path / "timeline.json"
    settings = {"model": "test", "side": 64, "calls": 2, "plain_calls": 2}
    run(monkeypatch, out=str(out), least_us=0.0, **settings)
    record = read_record(out)
    values = {name: result.value for name, result in record.results.items()}
    for mode in ("plain", "traced"):
        returns, waited = (values[f"call_us/{mode}/{n}"] for n in ("returns", "waited"))
        assert 0 < returns < waited
    assert record.setup["gpu"] is None and "kernels" not in values
    assert record.setup["calls"] == 2 and record.setup["arguments"] > 10
    execute = [name for name in values if "Execute" in name and CALLER in name]
    assert execute, "the host's tracer is not at its finest"


def test_a_side_without_a_grid_is_refused(monkeypatch):
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, model="test", side=100)
    assert "--side=100" in str(left.value)
