"""The one form of results files."""

import json

import pytest

from mirage_jax.errors import MirageError
from mirage_jax.results import (
    Result,
    device_setup,
    read_results,
    read_setup,
    write_results,
)


def test_results_file_keeps_its_form(tmp_path):
    path = tmp_path / "deep" / "numbers.json"
    results = [
        Result("psnr/pencil/512/1", 30.5, "dB"),
        Result("ms", 1.0, "ms", "lower"),
    ]
    write_results(path, "experiments/x.py", device_setup(), results)
    record = json.loads(path.read_text())
    assert record.keys() == {"script", "setup", "results"}
    assert record["results"][0] == {
        "name": "psnr/pencil/512/1",
        "value": 30.5,
        "unit": "dB",
        "better": "higher",
    }
    assert {"device", "jax", "platform"} <= record["setup"].keys()
    assert read_results(path) == {"psnr/pencil/512/1": 30.5, "ms": 1.0}
    assert read_setup(path) == record["setup"]
    assert [p.name for p in path.parent.iterdir()] == ["numbers.json"]


def test_bad_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        Result("psnr", float("nan"), "dB")
    with pytest.raises(ValueError, match="better"):
        Result("psnr", 1.0, "dB", "up")
    path = tmp_path / "numbers.json"
    with pytest.raises(ValueError, match="given twice"):
        write_results(path, "x", {}, [Result("a", 1.0, "1")] * 2)
    assert not path.exists()
    with pytest.raises(MirageError, match="cannot read"):
        read_results(path)
    path.write_text("here is a file")
    with pytest.raises(MirageError, match="cannot write"):
        write_results(path / "below", "x", {}, [])


@pytest.mark.parametrize("text", ["[]", "{}", '{"setup": 1, "results": 2}', "no JSON"])
def test_what_is_no_results_file_is_one_clear_line(tmp_path, text):
    path = tmp_path / "numbers.json"
    path.write_text(text)
    for read in (read_results, read_setup):
        with pytest.raises(MirageError, match="cannot read results from .*numbers"):
            read(path)
