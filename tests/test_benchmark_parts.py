"""What the benchmark of the frame is made of, by programs whose times are known."""

import importlib
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
import toy_model
from absl import flags
from absl.testing import flagsaver

from experiments import first_frame, named_model, starts
from experiments.call_timing import WARM_UP, Call, waited_calls
from experiments.frame_report import frame_results, most_error
from experiments.frame_timing import (
    double_buffered,
    plain_transfers,
    rounds_of,
    stages_of,
)
from experiments.roofline_measured import read_measured
from experiments.side_by_side import compile_side_by_side
from experiments.source_feed import SourceFeed
from mirage_jax.config import MODELS
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, write_results
from mirage_jax.stream_config import StreamConfig


def test_a_stage_is_what_the_frame_is_quicker_without_it():
    found = {
        "without_nothing": [10.0, 20.0, 11.0],  # the clock was slow for one round
        "without_encode": [9.0, 18.0, 10.0],
        "without_pass": [4.0, 8.0, 5.0],
        "without_decode": [8.5, 17.0, 9.5],
        "commit_clean": [12.0, 24.0, 13.0],
    }
    stages = stages_of(found, passes=2)
    assert stages["encode"].p50 == 1 and stages["decode"].p50 == 1.5
    assert stages["pass"].p50 == 3 and stages["commit_clean"].p50 == 2
    assert stages["frame"].p50 == 11 and stages["frame"].spread > 0
    # 1.5, 3 and 2.5 by round
    assert stages["rest"].p50 == pytest.approx(2.5)


def test_programs_have_their_turn_in_every_round():
    turns = []

    def program(name):
        def call(carry):
            turns.append(name)
            return carry, jnp.zeros(())

        return Call(call), 0

    found = rounds_of({"a": program("a"), "b": program("b")}, rounds=2, count=3)
    assert turns == (["a"] * 3 + ["b"] * 3) * 3  # one round warms up
    assert [len(times) for times in found.values()] == [2, 2]


@pytest.mark.parametrize("run", [plain_transfers, double_buffered])
def test_transfers_take_every_frame_once_and_in_order(run):
    count, seen = 5, []
    given = iter(np.full((1, 2, 2, 3), i, np.uint8) for i in range(100))

    def step(state, source):
        seen.append(int(source[0, 0, 0, 0]))
        return state + 1, source

    found, state = run(step, 0, given, count)
    assert seen == list(range(WARM_UP + count)) and state == WARM_UP + count
    assert len(found.latencies) == count and min(found.latencies) > 0
    assert found.fps > 0


def test_frame_times_and_what_is_made_of_them():
    times = [10.0, 20.0, 10.0, 40.0]
    values = {r.name: r.value for r in frame_results("int8/1", times, 9.0)}
    assert values["frame_ms/int8/1/p50"] == 15 and values["frame_ms/int8/1/max"] == 40
    assert values["missed/int8/1/16_ms"] == 50 and values["missed/int8/1/33_ms"] == 25
    assert values["frame_ms/int8/1/jitter"] == pytest.approx(np.std([10, -10, 30]))
    assert values["stage_ms/int8/1/dispatch/p50"] == 6


def test_more_passes_may_err_more_and_8_bits_too():
    plain = most_error(StreamConfig())
    assert plain < most_error(StreamConfig(steps=2))
    assert plain < most_error(StreamConfig(eight_bit="int8")) < 1


def test_roofline_leaves_out_a_stage_that_is_lost_in_noise(tmp_path):
    path = tmp_path / "benchmark.json"
    times = {"frame_ms/bfloat16/1/p50": 5.0, "stage_ms/bfloat16/1/pass/p50": 2.0}
    times |= {"stage_ms/bfloat16/1/encode/p50": -0.1}
    times |= {"stage_ms/bfloat16/1/decode/p50": 1.0}
    setup = {"device": "NVIDIA H200", "model": "test"}
    results = [Result(name, value, "ms", "lower") for name, value in times.items()]
    write_results(path, "a test", setup, results)
    stream = StreamConfig(64, 64)
    found = read_measured(str(path), "test", MODELS["test"], stream)
    assert [piece.name for piece in found.pieces] == ["pass", "decode"]
    assert found.launch_ms is None


class Lowered:
    def __init__(self, becomes):
        self.becomes = becomes

    def compile(self, compiler_options):
        if isinstance(self.becomes, Exception):
            raise self.becomes
        return self.becomes, compiler_options


def test_a_program_that_does_not_compile_leaves_the_others_alone():
    noted = []
    programs = {"a": Lowered(1), "b": Lowered(ValueError("no")), "c": Lowered(3)}
    found = compile_side_by_side(programs, {"x": 1}, lambda name, _: noted.append(name))
    failed = found.pop("b")
    assert isinstance(failed, ValueError) and str(failed) == "no"
    assert sorted(noted) == ["a", "c"]
    programs_of = {
        name: one[0] for name, one in found.items() if isinstance(one, tuple)
    }
    assert programs_of == {"a": (1, {"x": 1}), "c": (3, {"x": 1})}


# Stands in for the script that starts a stream: says whether its cache was empty.
CHILD = """
import json, os, pathlib, sys, time
assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
empty = not cache.exists()
cache.mkdir(exist_ok=True)
if "--fail" in sys.argv:
    sys.exit("boom")
said = {"clock": time.monotonic(), "seconds": {"first frame": 0.5 if empty else 0.25},
        "live": None, "peak": 2**30, "peak_of": "process"}
out = next(word for word in sys.argv if word.startswith("--out="))
pathlib.Path(out[6:]).write_text(json.dumps(said))
"""


def test_the_first_start_has_an_empty_cache_and_the_second_a_full_one(monkeypatch):
    monkeypatch.setattr(starts, "CHILD", ("-c", CHILD))
    found = starts.time_starts([])
    values = {r.name: r.value for r in starts.start_results("int8/1", found)}
    assert values["start_s/cold"] > 0 and values["start_s/warm"] > 0
    assert values["start_s/cold/first_frame"] == 0.5
    assert values["start_s/warm/first_frame"] == 0.25
    assert values["memory_gib/int8/1/peak"] == 1
    assert "memory_gib/int8/1/live" not in values


def test_a_start_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(starts, "CHILD", ("-c", CHILD))
    with pytest.raises(MirageError, match="the cold start failed: boom"):
        starts.time_starts(["--fail"])
    line = "import time; time.sleep(60)"
    monkeypatch.setattr(starts, "CHILD", ("-c", line))
    monkeypatch.setattr(starts, "LONGEST_S", 0.5)
    with pytest.raises(MirageError, match="leave start out of --parts"):
        starts.time_starts([])


@pytest.mark.slow
def test_a_first_frame_says_when_it_was_there(tmp_path, capsys, monkeypatch):
    # Nothing has to be compiled for these.
    monkeypatch.setattr(named_model, "random_params", lambda *_: toy_model.params())
    importlib.reload(first_frame)
    flags.FLAGS.mark_as_parsed()
    out = tmp_path / "first.json"
    with flagsaver.flagsaver(model="test", side=64, frames=1, out=str(out)):
        first_frame.main(["first_frame"])
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(out.read_text())
    seconds = said["seconds"]
    assert set(seconds) == {"imports", "weights", "first frame"}
    assert seconds["weights"] > 0 and seconds["first frame"] > 0
    assert said["peak"] > 0


def test_a_feed_gives_every_frame_in_turn_and_keeps_its_own():
    clip = [np.full((1, 2, 2, 3), i, np.uint8) for i in range(3)]
    feed, seen = SourceFeed(clip), []
    for number in range(7):
        if number % 2:  # made ready or not
            feed.ready()
        source = feed.take()
        seen.append(int(source[0, 0, 0, 0]))
        source.delete()  # as a step does that uses it up
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_what_a_call_needs_is_made_ready_before_its_clock_starts():
    events = []

    def run(carry):
        events.append("run")
        return carry + 1, jnp.zeros(())

    def ready():
        events.append("ready")
        time.sleep(0.01)

    times, carry = waited_calls(Call(run, ready), 0, 3)
    assert events == ["run"] * WARM_UP + ["ready", "run"] * 3
    assert carry == WARM_UP + 3 and min(times) < 10
