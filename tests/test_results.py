"""The one form of results files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mirage_jax.errors import MirageError
from mirage_jax.results import (
    Result,
    device_setup,
    read_record,
    read_results,
    write_results,
)

ROOT = Path(__file__).parent.parent


def test_results_file_keeps_its_form(tmp_path):
    path = tmp_path / "deep" / "numbers.json"
    results = [
        Result("psnr/pencil/512/1", 30.5, "dB"),
        Result("ms", 1.0, "ms", "lower"),
    ]
    write_results(path, "experiments/x.py", device_setup(), results)
    record = json.loads(path.read_text())
    assert record.keys() == {"script", "setup", "results"}
    assert record["results"] == [
        {"name": "psnr/pencil/512/1", "value": 30.5, "unit": "dB"},
        {"name": "ms", "value": 1.0, "unit": "ms", "better": "lower"},
    ]
    assert {"device", "jax", "platform"} <= record["setup"].keys()
    assert read_results(path) == {"psnr/pencil/512/1": 30.5, "ms": 1.0}
    read = read_record(path)
    assert (read.script, read.setup) == (record["script"], record["setup"])
    assert list(read.results.values()) == results
    assert [p.name for p in path.parent.iterdir()] == ["numbers.json"]


def test_counts_are_written_in_full_and_measurements_to_six_digits(tmp_path):
    path = tmp_path / "numbers.json"
    counts = {"parameters": 885_500_144, "flops": 567_130_272_512.0}
    measured = {"ms": 3.1094445000121596, "slope": -1.23456789e-7}
    results = [Result(name, value, "") for name, value in (counts | measured).items()]
    write_results(path, "x", {}, results)
    read = read_results(path)
    assert {name: read[name] for name in counts} == counts
    assert {name: read[name] for name in measured} == pytest.approx(measured, rel=5e-6)
    assert "3.10944," in path.read_text()


def test_bad_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        Result("psnr", float("nan"), "dB")
    with pytest.raises(ValueError, match="better"):
        Result("psnr", 1.0, "dB", "up")
    path = tmp_path / "numbers.json"
    with pytest.raises(ValueError, match="given twice"):
        write_results(path, "x", {}, [Result("a", 1.0, "1")] * 2)
    with pytest.raises(ValueError, match="'merged'"):
        write_results(path, "x", {"commit": "merged"}, [])
    assert not path.exists()
    with pytest.raises(MirageError, match="cannot read"):
        read_results(path)
    path.write_text("here is a file")
    with pytest.raises(MirageError, match="cannot write"):
        write_results(path / "below", "x", {}, [])


@pytest.mark.parametrize(
    "text, told",
    [
        ("[]", "list"),
        ('{"script": "x", "setup": {}}', "no 'results'"),
        ('{"results": [{"name": "a", "value": NaN, "unit": "ms"}]}', "not finite"),
        ('{"results": [{"name": "a"}]}', "value"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, text, told):
    path = tmp_path / "numbers.json"
    path.write_text(text)
    with pytest.raises(MirageError, match=rf"numbers\.json: .*{told}"):
        read_record(path)


def test_a_record_says_which_code_ran_when_and_how(tmp_path):
    (tmp_path / "measure.py").write_text(
        "import json\n"
        "from mirage_jax.results import device_setup\n"
        "print(json.dumps(device_setup()))\n"
    )
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "measure",
            "--name=two words",
            "--out=/some/where/a.json",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    setup = json.loads(run.stdout)
    assert setup["command"] == "python -m measure '--name=two words' --out=a.json"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", setup["date"])
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    if head.returncode == 0:
        assert setup["commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert setup["commit"] is None
