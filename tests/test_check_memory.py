"""The memory check in the interpreter, and around it a stand-in for the tool."""

import importlib
import json

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import check_memory, memory_calls, sanitizer
from pallas_kernels.frame_attention.specs import SPECS
from pallas_kernels.quantise import triton

FAKE = """#!/bin/sh
case "$*" in
  *=frame_attention*) echo "========= ERROR SUMMARY: 13 errors"
    echo "========= ERROR SUMMARY: 3 errors were not printed"; exit 9 ;;
  *racecheck*) echo "========= RACECHECK SUMMARY: 2 hazards displayed" \\
    "(0 errors, 2 warnings)" ;;
  *=modulated_norm*) sleep 30 ;;
  *=qk_norm*) echo "no such library"; exit 1 ;;
  *=linear_8bit*) echo "========= ERROR SUMMARY: 0 errors"; exit 1 ;;
  *) while [ "$1" != -m ]; do python=$1; shift; done
    "$python" "$@" && echo "========= ERROR SUMMARY: 0 errors" ;;
esac
"""


@pytest.fixture(autouse=True)
def one_shape(monkeypatch):
    monkeypatch.setattr(memory_calls, "SMALL", ("head_12",))
    for name, value in sanitizer.OWN_ALLOCATIONS.items():
        monkeypatch.setenv(name, value)  # what a run sets ends with its test


@pytest.fixture
def tool(tmp_path, monkeypatch):
    path = tmp_path / sanitizer.PROGRAM
    path.write_text(FAKE)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def run(**settings):
    importlib.reload(check_memory)
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(interpret=True, **settings):
        return check_memory.check_memory()


def watch(folder, **settings):
    """Whether it failed, errors by name, and what was not proved."""
    out = folder / "sanitizer.json"
    failed = run(out=str(out), **settings)
    record = json.loads(out.read_text())
    found = {result["name"]: result["value"] for result in record["results"]}
    return failed, found, record["setup"]["unproved"]


def test_every_operation_is_right_in_the_interpreter(capsys):
    assert not run()
    lines = capsys.readouterr().out.splitlines()
    triton = [
        op for op, it in memory_calls.OPERATIONS.items() if "triton" in it.kernels
    ]
    assert [line.split("/")[0] for line in lines] == triton
    assert all(line.endswith("right") for line in lines)


@pytest.mark.parametrize(
    "kernel, said",
    [
        (lambda x, **_: (x, x[..., 0]), "WRONG: head_12: error "),
        (lambda x, **_: 1 // 0, "WRONG: head_12: ZeroDivisionError"),
    ],
)
def test_a_wrong_kernel_fails(kernel, said, monkeypatch, capsys):
    operation = memory_calls.OPERATIONS["quantise"]
    monkeypatch.setitem(
        operation.kernels,
        "triton",
        lambda x, **named: triton.Quantised(*kernel(x, **named)),
    )
    assert run(ops=["quantise"])
    assert said in capsys.readouterr().out


def test_a_kernel_that_takes_nothing_proves_nothing(monkeypatch, capsys):
    def unable(*_, **__):
        raise NotImplementedError

    operation = memory_calls.OPERATIONS["quantise"]
    monkeypatch.setitem(operation.kernels, "triton", unable)
    assert run(ops=["quantise"])
    assert "NONE RAN" in capsys.readouterr().out


def test_the_shapes_are_those_that_fill_no_block():
    problems = [SPECS[name].problem for name in memory_calls.SHAPES]
    assert {49, 144, 256} <= {p.queries for p in problems}
    assert 3 in {p.batch for p in problems} and 2 in {p.groups for p in problems}
    assert any(SPECS[name].empty for name in memory_calls.SHAPES)


def test_the_tool_runs_the_check_itself(tool, tmp_path):
    name = "memcheck/quantise/triton"
    found = watch(tmp_path, ops=["quantise"], sanitizer=["memcheck"])
    assert found == (False, {f"errors/{name}": 0}, {})


def test_errors_are_counted_and_what_came_to_no_end_is_named(tool, tmp_path):
    ops = ["frame_attention", "modulated_norm", "qk_norm_rope_commit", "linear_8bit"]
    settings = {"ops": ops, "sanitizer": ["memcheck", "racecheck"], "seconds": 3.0}
    failed, found, unproved = watch(tmp_path, **settings)
    assert failed
    assert found["errors/memcheck/frame_attention/triton"] == 13
    assert found["errors/racecheck/linear_8bit/triton"] == 0
    assert unproved == {
        "memcheck/modulated_norm/triton": "no end in 3 s",
        "memcheck/qk_norm_rope_commit/triton": "no summary of the tool, exit status 1",
        "memcheck/linear_8bit/triton": "exit status 1",
    }


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    importlib.reload(check_memory)
    flags.FLAGS.mark_as_parsed()
    for settings, said in (
        ({"ops": ["nothing"]}, "--ops: 'nothing' is none of frame_attention"),
        ({"ops": ["linear"]}, "the interpreter has no such kernel"),
        ({"interpret": False}, "no NVIDIA GPU here; --interpret"),
        ({"sanitizer": ["memcheck"]}, "no compute-sanitizer on PATH"),
    ):
        monkeypatch.setenv("PATH", str(tmp_path))
        with flagsaver.flagsaver(**({"interpret": True} | settings)):
            with pytest.raises(SystemExit, match=said):
                check_memory.main(["check_memory"])


def test_a_hidden_cpu_is_named(monkeypatch):
    def hidden(**_):
        raise RuntimeError("unknown backend")

    monkeypatch.setattr(jax, "local_devices", hidden)
    with pytest.raises(check_memory.MirageError, match="JAX_PLATFORMS=cuda,cpu"):
        check_memory._cpu()
