"""The tracked tree stays small, portable and readable."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MIB = 2**20

# Written in halves, so that this file does not contain what it looks for.
MACHINE_PATHS = ["/" + name + "/" for name in ("work", "root")]
WEIGHTS = {".safetensors", ".npz", ".npy"}
BINARY = WEIGHTS | {".mp4", ".png", ".jpg", ".webp", ".wav"}


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout, so there is no tracked tree to check")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_every_file_is_small() -> None:
    sizes = {str(path): path.stat().st_size / MIB for path in tracked_files()}
    assert not {path: size for path, size in sizes.items() if size > 16}


def test_weights_and_whole_tree_are_small() -> None:
    sizes = {path: path.stat().st_size / MIB for path in tracked_files()}
    weights = [size for path, size in sizes.items() if path.suffix in WEIGHTS]
    assert sum(weights) < 24
    assert sum(sizes.values()) < 28


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {machine_path}"
        for path in tracked_files()
        if path.suffix not in BINARY
        for machine_path in MACHINE_PATHS
        if machine_path in path.read_text(encoding="utf-8")
    ]
    assert not found


def test_no_merge_left_its_marks() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix not in BINARY
        and re.search(r"^(<{7}|>{7}) ", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert not found


def test_python_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in tracked_files()
        if path.suffix == ".py"
    }
    assert not {path: length for path, length in lengths.items() if length > 420}
