"""The leaderboard: nothing on it that a result file does not say."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import leaderboard, submission
from experiments.leaderboard_page import render
from experiments.submission import file_name, not_ranked
from mirage_jax.evaluation.checks import DRIFT, LEAST_MEAN
from mirage_jax.results import Result, read_record, write_results

ROOT = Path(__file__).parent.parent
MODEL = {"model": "default", "weights_sha256": "0" * 64}
SETUP = {
    "date": "2026-01-02",
    "commit": "a" * 40,
    "command": "python -m experiments.x",
    "device": "a GPU",
    "jax": "0.11.2",
    "height": 512,
    "width": 512,
    "precision": "bfloat16",
    "steps": 1,
}


def run(**settings):
    importlib.reload(leaderboard)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**settings):
        try:
            leaderboard.main(["leaderboard"])
        except SystemExit as left:
            return left.code
    return None


def test_the_committed_page_is_that_of_the_submissions(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run(check=True) is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with the schema and no submission."""
    shutil.copytree(ROOT / "docs/leaderboard", tmp_path / "docs/leaderboard")
    shutil.rmtree(tmp_path / "docs/leaderboard/submissions", ignore_errors=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "docs/leaderboard"


def benchmark(name="benchmark", precisions=("bfloat16", "int8"), p50=2.0, **setup):
    results = [
        Result(f"frame_ms/{precision}/1/{percentile}", p50 + later, "ms", "lower")
        for precision in precisions
        for percentile, later in (("p50", 0.0), ("p95", 0.25), ("p99", 0.5))
    ]
    results.append(Result("fps/1", 450.0, "1/s"))
    results.append(Result("fps/4", 900.0, "1/s"))
    path = f"docs/results/{name}.json"
    write_results(path, "experiments/benchmark.py", SETUP | MODEL | setup, results)
    return path


def quality(psnr=35.0, kind="procedural", **setup):
    results = [
        Result(f"psnr_mean/{kind}/512/1", psnr, "dB"),
        Result("psnr_mean/neural/512/1", 28.25, "dB"),
        Result("psnr_mean/neural/256/1", 27.0, "dB"),
        Result("psnr_mean/neural/512/2", 29.0, "dB"),
    ]
    known = MODEL | {"precision": "bfloat16"} | setup
    write_results("docs/results/quality.json", "evaluate", known, results)


def drift(slope=-0.01, **setup):
    results = [
        Result("psnr_slope_per_1000/oil", 0.1, "dB"),
        Result("psnr_slope_per_1000/pencil", slope, "dB"),
        Result("psnr_slope_per_1000/pencil/clean/1", -5.0, "dB"),  # not what is ranked
        Result("psnr_slope_per_1000/oil/merged/2", -0.02, "dB"),
    ]
    modes = ["merged/1", "clean/1", "merged/2"]
    known = MODEL | {"precision": "bfloat16", "modes": modes} | setup
    write_results("docs/results/drift.json", "drift", known, results)


def submissions(folder):
    paths = sorted((folder / "submissions").glob("*.json"))
    return {path.name: json.loads(path.read_text()) for path in paths}


def test_drift_is_that_of_the_mode_which_was_timed(folder):
    drift()
    record = read_record("docs/results/drift.json")
    found = {
        steps: submission.evidence("drift", record, {"precision": "", "steps": steps})
        for steps in (1, 2, 4)
    }
    slope = "psnr_slope_per_1000"
    assert found == {
        1: {f"{slope}/pencil": -0.01},
        2: {f"{slope}/oil/merged/2": -0.02},
        4: {},
    }


def test_submissions_are_made_checked_and_shown(folder, capsys):
    path = benchmark()
    quality()
    drift()
    assert run(add=path, who="Me | myself") is None
    told = capsys.readouterr().out
    assert "2 submissions, 1 of them ranked" in told
    assert "precision is int8 in the submission and bfloat16 in the file" in told
    made = submissions(folder)
    assert list(made) == [
        "a_gpu-default-512x512-bfloat16-1_steps-me_myself.json",
        "a_gpu-default-512x512-int8-1_steps-me_myself.json",
    ]
    full, bare = made.values()
    assert full["speed"]["values"] == {
        "frame_ms/bfloat16/1/p50": 2.0,
        "frame_ms/bfloat16/1/p95": 2.25,
        "frame_ms/bfloat16/1/p99": 2.5,
        "fps/1": 450.0,
    }
    assert "fps/1" not in bare["speed"]["values"]  # they are not of this precision
    assert full["quality"]["values"] == {
        "psnr_mean/procedural/512/1": 35.0,
        "psnr_mean/neural/512/1": 28.25,
    }
    assert full["drift"]["values"] == {"psnr_slope_per_1000/pencil": -0.01}  # the worst
    page = (folder / "index.md").read_text()
    ranked, rest = page.split("## Not ranked")
    assert "## a GPU, 512x512" in ranked and r"Me \| myself" in ranked
    assert (
        "| 1 | default | bfloat16 | 1 | 2.00 | 2.25 | 2.50 | 450.0 (1 stream)" in page
    )
    assert "neural 28.25, procedural 35.00 | -0.010 (pencil) | 0.11.2" in ranked
    assert "unverified: no quality; unverified: no drift" in rest and "int8" in rest
    assert run(check=True) is None
    assert "(../results/quality.json)" in ranked


def test_the_page_depends_on_the_submissions_alone(folder):
    path = benchmark()
    quality()
    drift()
    run(add=path, who="B")
    run(add=benchmark("faster", ("bfloat16",), height=256, width=256), who="A")
    made = submissions(folder)
    assert len(made) == 3
    assert render(made) == render(dict(reversed(made.items())))


def test_the_fastest_comes_first_among_its_like(folder):
    quality()
    drift()
    for who, p50 in (("anna", 3.0), ("bert", 1.5)):
        assert run(add=benchmark(who, ("bfloat16",), p50), who=who) is None
    page = (folder / "index.md").read_text()
    assert page.index("| bert |") < page.index("| anna |")
    assert "| 1 | default" in page and "| 2 | default" in page


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: quality(psnr=LEAST_MEAN["procedural"] - 0.1), "PSNR of procedural"),
        (lambda: quality(kind="memory"), "no quality of procedural"),
        (lambda: drift(slope=-DRIFT - 0.1), "pencil drifts"),
        (lambda: quality(weights_sha256="1" * 64), "unverified: no quality"),
        (lambda: drift(precision="int8"), "unverified: no drift"),
        (lambda: Path("docs/results/drift.json").unlink(), "unverified: no drift"),
    ],
)
def test_the_gate_keeps_out_what_is_bad_or_not_proved(folder, make, reason):
    path = benchmark(precisions=("bfloat16",))
    quality()
    drift()
    make()
    assert run(add=path, who="me") is None
    [one] = submissions(folder).values()
    assert reason in "; ".join(not_ranked(one))
    page = (folder / "index.md").read_text()
    assert "## Not ranked" in page and "## a GPU" not in page and reason in page


def test_random_weights_are_never_ranked(folder):
    path = benchmark(precisions=("bfloat16",), weights_sha256=None)
    quality(weights_sha256=None)
    drift(weights_sha256=None)
    assert run(add=path, who="me") is None
    [one] = submissions(folder).values()
    assert len(list(not_ranked(one))) == 2


def changed(key, value):
    def change(one):
        *folders, last = key
        place = one
        for name in folders:
            place = place[name]
        place[last] = value

    return change


@pytest.mark.parametrize(
    "change, told",
    [
        (
            changed(("speed", "values", "frame_ms/bfloat16/1/p50"), 1.5),
            "p50 is 1.5 here and 2.0 in docs/results/benchmark.json",
        ),
        (
            changed(("quality", "values", "psnr_mean/procedural/512/1"), 40),
            "is 40 here",
        ),
        (
            changed(("quality", "values"), {"psnr_mean/procedural/512/1": 35.0}),
            "psnr_mean/neural/512/1 is None here",
        ),
        (
            changed(("drift", "values"), {"psnr_slope_per_1000/oil": 0.1}),
            "psnr_slope_per_1000/pencil is None here and -0.01",
        ),
        (changed(("device",), "another"), "device is another in the submission"),
        (changed(("weights_sha256",), "1" * 64), "weights_sha256 is 1"),
        (changed(("speed", "file"), "docs/results/none.json"), "none.json"),
        (changed(("speed", "file"), "/etc/passwd"), "$.speed.file"),
        (changed(("date",), "yesterday"), "$.date"),
        (changed(("comment",), "best"), "comment"),
        (changed(("steps",), 3), "$.steps"),
        (changed(("steps",), 2), "there is no frame_ms/bfloat16/2/p50"),
        (lambda one: one.pop("who"), "'who' is a required property"),
        (changed(("who",), "somebody else"), "somebody_else.json"),
    ],
)
def test_what_a_submission_may_not_say(folder, change, told):
    path = benchmark(precisions=("bfloat16",))
    quality()
    drift()
    run(add=path, who="me")
    [(name, one)] = submissions(folder).items()
    change(one)
    (folder / "submissions" / name).write_text(json.dumps(one))
    error = run()
    assert error.startswith(f"leaderboard: {name}: ") and told in error
    assert "\n" not in error


def test_an_old_page_is_found_and_not_touched(folder):
    run(add=benchmark(), who="me")
    (folder / "index.md").write_text("an edited page")
    assert "run: python -m experiments.leaderboard" in run(check=True)
    assert (folder / "index.md").read_text() == "an edited page"
    assert run() is None and run(check=True) is None


def test_a_commit_is_given_where_the_record_has_none(folder):
    path = benchmark(commit=None)
    assert "does not say commit" in run(add=path, who="me")
    assert run(add=path, who="me", commit="b" * 40) is None
    assert {one["commit"] for one in submissions(folder).values()} == {"b" * 40}
    assert "$.commit" in run(add=path, who="you", commit="main")
    assert len(submissions(folder)) == 2


def test_frames_a_second_of_several_streams(folder):
    assert run(add=benchmark(precisions=("int8",)), who="me", streams=4) is None
    [one] = submissions(folder).values()
    assert one["speed"]["values"]["fps/4"] == 900
    assert "900.0 (4 streams)" in (folder / "index.md").read_text()


def test_what_cannot_be_added_is_refused_in_a_line(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere.json"
    shutil.copy(benchmark(), elsewhere)
    quality(**SETUP)
    for settings, told in (
        ({"add": "docs/results/benchmark.json"}, "--who"),
        ({"add": str(elsewhere), "who": "me"}, "move it there"),
        ({"add": "docs/results/none.json", "who": "me"}, "none.json"),
        ({"add": "docs/results/quality.json", "who": "me"}, "no frame_ms/<precision>"),
    ):
        error = run(**settings)
        assert told in error and "\n" not in error
    assert not submissions(folder)


def test_without_the_schemas_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert "make setup-dev" in run(add=benchmark(), who="me")


def test_names_of_files_hold_no_path(folder):
    run(add=benchmark(device="NVIDIA H100 80GB HBM3/../x"), who="../../me")
    for name, one in submissions(folder).items():
        assert name == file_name(one) and "/" not in name and ".." not in name
