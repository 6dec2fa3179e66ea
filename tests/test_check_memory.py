"""The script around compute-sanitizer, with a stand-in for the tool."""

import importlib
import json

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import check_memory
from mirage_jax.errors import MirageError

TOOL = """#!/bin/sh
case "$*" in
  *norm_256*) echo "========= ERROR SUMMARY: 3 errors" ;;
  *lsd_256*) echo "========= ERROR SUMMARY: 0 errors" ;;
  *slow*) sleep 5 ;;
  *) echo "no such case" ; exit 1 ;;
esac
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    path = tmp_path / check_memory.SANITIZER
    path.write_text(TOOL)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def run(folder, *cases):
    module = importlib.reload(check_memory)
    flags.FLAGS.mark_as_parsed()
    out = folder / "memory.json"
    with flagsaver.flagsaver(cases=list(cases), seconds=1.0, out=str(out)):
        failed = module.check_memory()
    record = json.loads(out.read_text())
    found = {result["name"]: result["value"] for result in record["results"]}
    return failed, found, record["setup"]["unfinished"]


def test_errors_are_counted(tool):
    assert run(tool, "lsd_256") == (False, {"errors/lsd_256": 0}, [])
    failed, found, unfinished = run(tool, "lsd_256", "norm_256")
    assert failed and found["errors/norm_256"] == 3 and not unfinished


@pytest.mark.parametrize("case", ["slow", "unknown"])
def test_what_does_not_finish_fails(tool, case):
    assert run(tool, case) == (True, {}, [case])


def test_a_missing_tool_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MirageError, match="no compute-sanitizer here"):
        run(tmp_path, "lsd_256")
