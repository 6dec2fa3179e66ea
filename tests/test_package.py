"""What is installed: the wheel holds what the command needs, and nothing else."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from mirage_jax.config_files import find_config, shipped_folder

ROOT = Path(__file__).parent.parent
COMMAND_CONFIGS = {"demo.py", "live.py", "render.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel, opened; without a network, by the tools of requirements-dev."""
    for tool in ("hatchling", "hatch_requirements_txt"):
        pytest.importorskip(tool, reason=f"{tool} is not installed: make setup-dev")
    folder = tmp_path_factory.mktemp("wheel")
    run = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    [path] = folder.glob("*.whl")
    assert path.stat().st_size < 28e6
    with zipfile.ZipFile(path) as opened:
        yield opened


def text_of(wheel: zipfile.ZipFile, ending: str) -> str:
    [name] = [name for name in wheel.namelist() if name.endswith(ending)]
    return wheel.read(name).decode()


def test_the_wheel_holds_the_packages_whole(wheel):
    """Code, weights, page, clip, tables and type markers: every tracked file."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "mirage_jax", "pallas_kernels"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    tracked = set(filter(None, listing.stdout.split("\0")))
    if not tracked:
        pytest.skip("not a git checkout, so nothing says what belongs to the package")
    held = set(wheel.namelist())
    assert not tracked - held
    for kind in (".safetensors", ".mp4", ".html", ".js", "py.typed", ".txtpb"):
        assert any(name.endswith(kind) for name in held), kind


def test_the_wheel_holds_the_configs_of_the_command(wheel):
    folder = "mirage_jax/shipped/configs/"
    held = {name for name in wheel.namelist() if name.startswith(folder)}
    assert {name.removeprefix(folder) for name in held} == COMMAND_CONFIGS
    for name in COMMAND_CONFIGS:
        assert wheel.read(folder + name) == (ROOT / "configs" / name).read_bytes()


def test_the_wheel_holds_nothing_else(wheel):
    """No tests, documents, experiments or top-level `configs` beside the packages."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    [metadata] = tops - {"mirage_jax", "pallas_kernels"}
    assert metadata.endswith(".dist-info")
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


def test_the_wheel_wants_what_the_requirements_say(wheel):
    told = Parser().parsestr(text_of(wheel, "METADATA"))
    wanted = [line for line in told.get_all("Requires-Dist", []) if "extra" not in line]
    lines = (ROOT / "requirements-cpu.txt").read_text().splitlines()
    assert len(wanted) == len([line for line in lines if line and line[0] != "#"])
    assert set(told.get_all("Provides-Extra", [])) >= {"cuda12", "cuda13", "cluster"}
    assert "mirage = mirage_jax.cli:mirage" in text_of(wheel, "entry_points.txt")


@pytest.mark.parametrize("name", ["demo", "demo.py", "configs/demo.py"])
def test_a_shipped_config_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)) == ROOT / "configs" / "demo.py"


def test_a_file_of_the_users_comes_first_and_other_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "demo.py"
    own.parent.mkdir()
    own.touch()
    assert find_config("configs/demo.py") == "configs/demo.py"
    for name in ("none", "configs/none.py", "mine/demo.py", "/configs/demo.py"):
        assert find_config(name) == name


def test_the_installed_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr("mirage_jax.__file__", str(tmp_path / "mirage_jax/__init__.py"))
    assert shipped_folder() == tmp_path
    installed = tmp_path / "mirage_jax" / "shipped"
    installed.mkdir(parents=True)
    assert shipped_folder() == installed


def test_the_command_runs_from_another_folder(tmp_path):
    """As `mirage` does: a config by its name, which imports another, and an error."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from mirage_jax.cli import mirage; mirage()",
            "--config=demo",
            "--config.size=33",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("mirage: ") and "33" in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1
