"""The tuner, end to end on the CPU with tiny shapes, and its parts."""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver
from an_h100 import no_tables  # noqa: F401

from experiments import autotune, chain_builder, search_spaces
from experiments.chain_builder import compile_lowered, lower
from experiments.kernel_cases import contests, frame_loop
from experiments.trials import Candidate, Trial, run_all
from mirage_jax.results import read_results
from pallas_kernels import choice, timing
from pallas_kernels.device import INTERPRETER, Device
from pallas_kernels.modulated_norm import triton as norms
from pallas_kernels.timing import Program

TINY = {"calls": 1, "repeats": 1, "sets": 2, "most": 2, "workers": 1, "interpret": True}
CONTESTS = contests(True, most_sets=2)


def run(**settings):
    """Runs the script with settings for its flags, some of which others have too."""
    importlib.reload(autotune)
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**TINY | settings):
        autotune.main(["autotune"])


@pytest.fixture
def here(monkeypatch):
    """Lowers in this process, so that a test can break a kernel."""
    threads = lambda workers, *_: ThreadPoolExecutor(workers)  # noqa: E731
    monkeypatch.setattr(chain_builder, "ProcessPoolExecutor", threads)


@pytest.mark.slow
def test_every_operation_is_tuned_and_the_dispatcher_takes_what_was_found(
    tmp_path, capsys
):
    names = ["plain", "norm_tiny_int8", "commit_tiny", "up_tiny*", "quantise_*"]
    times = tmp_path / "times.json"
    run(cases=names, seconds=300.0, out_times=str(times))
    printed = capsys.readouterr().out
    assert "1 refused: cudnn: NotImplementedError" in printed
    found = read_results(times)
    setup = json.loads(times.read_text())["setup"]
    assert setup["problems"].keys() == {
        *("plain", "norm_tiny_int8", "commit_tiny", "up_tiny", "up_tiny_int8"),
        "quantise_tiny_int8",
    }
    for name in setup["problems"]:
        contest = CONTESTS[name]
        row = choice.nearest(contest.op, contest.problem, INTERPRETER)
        assert row is not None and row.problem == contest.problem
        able = {"xla", "triton"} & set(contest.backends)
        assert set(row.order) == able
        order = choice.backend_order(contest.op, contest.problem, INTERPRETER)
        assert order[: len(able)] == row.order
        tried = [
            one for one in found if one.startswith(f"us/{contest.op.name}/{name}/")
        ]
        assert f"us/{contest.op.name}/{name}/xla" in tried
        if "triton" in dict(contest.op.configs) and "triton" in able:
            best = choice.tuned_config(
                contest.op, contest.problem, INTERPRETER, "triton"
            )
            space = search_spaces.search_space(
                contest.op, contest.problem, INTERPRETER, "triton", 2
            )
            assert best in space and len(tried) == 1 + len(space)


def test_a_wrong_kernel_is_named_and_left_out(monkeypatch, here):
    norm = norms.gated_residual_norm

    def half(*operands, **named):
        return jax.tree.map(lambda x: x / 2, norm(*operands, **named))

    monkeypatch.setattr(norms, "gated_residual_norm", half)
    with pytest.raises(SystemExit, match="wrong, left out: norm_tiny/triton/1_1"):
        run(cases=["norm_tiny"], most=1)
    contest = CONTESTS["norm_tiny"]
    row = choice.nearest(contest.op, contest.problem, INTERPRETER)
    assert row is not None and row.order == ("xla",) and not row.configs


def test_what_fails_to_build_is_counted_and_left_out(monkeypatch, here, capsys):
    def broken(*_, **__):
        raise ValueError("does not fit\nand more")

    monkeypatch.setattr(norms, "gated_residual_norm", broken)
    run(cases=["norm_tiny"])
    printed = capsys.readouterr().out
    assert "norm_tiny: 1 of 3 candidates built" in printed
    assert "  2 refused: triton: RuntimeError: ValueError: does not fit\n" in printed


def test_what_does_not_run_is_said_and_left_out():
    def run(carry, sets):
        raise jax.errors.JaxRuntimeError("no room\nfor it")

    well = timing.compile_chain(lambda x, y: x * y, jnp.ones(2), [jnp.ones(2)], 1)
    chains = {Candidate("triton"): timing.Chain(run, 9), Candidate("xla"): well}
    found = run_all(chains, jnp.ones(2), [jnp.ones(2)], jnp.ones(2), 1)
    assert found[Candidate("triton")] == "JaxRuntimeError: no room"
    assert isinstance(found[Candidate("xla")], Trial)


def test_no_kernel_is_begun_when_the_time_is_over(here, capsys):
    run(cases=["norm_tiny"], seconds=-1.0)
    assert "norm_tiny: 1 of 3 candidates built" in capsys.readouterr().out


def test_a_lowered_chain_is_the_chain():
    """Named tuples, aliased operands and the number of calls come through."""
    for name in ("norm_tiny_int8", "commit_tiny"):
        contest = CONTESTS[name]
        carry, sets = contest.draw()
        program = Program(contest.step("triton", None), len(sets), 16)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (carry, sets)
        )
        there = compile_lowered(lower(program, shapes, None), program, carry, sets)
        here = timing.compile_chain(program.step, carry, sets, 16)
        assert there.calls == here.calls == 17
        for a, b in zip(
            jax.tree.leaves(there.run(carry, sets)),
            jax.tree.leaves(here.run(carry, sets)),
            strict=True,
        ):
            assert jnp.array_equal(a, b)


def test_globs_choose_cases_and_operations():
    importlib.reload(autotune)

    def names(**settings):
        flags.FLAGS.mark_as_parsed()
        with flagsaver.flagsaver(**TINY | {"interpret": False} | settings):
            return list(autotune._chosen())

    assert names() == list(frame_loop(False)) and len(names()) > 80
    chosen = names(cases=["up_*_int8", "default_up_*"], ops=["linear*"])
    assert chosen[0] == "up_256_int8" and "default_up_512" in chosen
    assert names(ops=["quantise"])[0] == "quantise_down_256_int8"
    assert "ungated_norm_256" not in names()
    assert names(cases=["ungated_*"], ops=["modulated_norm"])[0] == "ungated_norm_256"


def test_what_does_not_exist_is_named():
    with pytest.raises(SystemExit, match="no case 'nothing': choose of .*norm_tiny"):
        run(cases=["nothing"])
    with pytest.raises(SystemExit, match="no operation 'sum'.*frame_attention"):
        run(ops=["sum"])
    with pytest.raises(SystemExit, match="no NVIDIA GPU here; --interpret"):
        run(interpret=False)


def test_the_hopper_kernels_are_tried_on_hopper_cards_alone():
    contest = contests(False, most_sets=2)["up_256_int8"]
    space = (contest.op, contest.problem)
    ampere = Device("NVIDIA A100-SXM4-80GB", (8, 0), 108)
    assert search_spaces.search_space(*space, ampere, "mosaic", 4) == ()
    assert len(search_spaces.search_space(*space, ampere, "triton", 4)) == 4
