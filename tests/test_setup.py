"""The set-up of `make demo` and `make test`, with stand-ins for Python and pip.

The stand-in answers as an interpreter of a given version, "makes" environments by
copying itself, and logs what pip is asked to install.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON_STAND_IN = """#!/bin/bash
case "$1 $2" in
  "-c import sys"*) echo {version} ;;
  "-c import ensurepip") exit {no_ensurepip} ;;
  "-m venv") mkdir -p "${{@: -1}}/bin" && cp "$0" "${{@: -1}}/bin/python" ;;
  "-m pip")
    [[ $3 == --version ]] || echo "${{@:3}}" >>"$PIP_LOG"
    exit {pip_status} ;;
  *) exit 2 ;;
esac
"""


@dataclass
class Machine:
    """A machine that has only what a test gives it; `folder/bin` is its PATH."""

    folder: Path

    def add(self, name: str, script: str) -> Path:
        path = self.folder / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def add_python(
        self, name: str, version: str, no_ensurepip: int = 0, pip_status: int = 0
    ) -> Path:
        script = PYTHON_STAND_IN.format(
            version=version, no_ensurepip=no_ensurepip, pip_status=pip_status
        )
        return self.add(name, script)

    def setup(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.folder / "bin"),
            "VENV": str(self.folder / "venv"),
            "PIP_LOG": str(self.folder / "pip.log"),
            "MIRAGE_BUILD": "cpu",
            **extra,
        }
        return subprocess.run(
            [ROOT / "scripts" / "setup.sh", *arguments],
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
        )

    def pip_calls(self) -> list[str]:
        log = self.folder / "pip.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.replace(" --disable-pip-version-check", "") for line in lines]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    tools = "bash env cat cp cut dirname flock grep mkdir rm sha256sum".split()
    for tool in tools:
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"the set-up needs {tool}, which this machine lacks")
        os.symlink(found, bin_folder / tool)
    return Machine(tmp_path)


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


RUN = [
    "install -r requirements-cpu.txt",
    "install --no-deps -r requirements-nodeps.txt",
]
DEV = ["install -r requirements-dev.txt"]


def test_second_run_installs_nothing(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert machine.setup().returncode == 0
    assert machine.pip_calls() == RUN
    assert machine.setup().returncode == 0
    assert machine.pip_calls() == RUN
    assert machine.setup("--dev").returncode == 0
    assert machine.setup("--dev").returncode == 0
    assert machine.pip_calls() == RUN + DEV


def test_docs_need_their_own_packages_alone(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert machine.setup("--docs").returncode == 0
    assert machine.setup("--docs").returncode == 0
    assert machine.pip_calls() == ["install -r requirements-docs.txt"]


def test_a_cluster_adds_what_users_of_it_install(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert machine.setup("--cluster").returncode == 0
    assert machine.setup("--cluster").returncode == 0
    assert machine.pip_calls() == [*RUN, *DEV, "install -e .[cluster]"]


def test_a_failed_install_is_tried_again(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7", pip_status=1)
    message = one_line(machine.setup())
    assert "requirements-cpu.txt" in message
    machine.add_python("python3", "3.11.7")
    shutil.copy(machine.folder / "bin" / "python3", machine.folder / "venv/bin/python")
    assert machine.setup().returncode == 0
    assert machine.pip_calls() == RUN[:1] + RUN


def test_another_build_or_python_installs_again(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    machine.setup()
    machine.setup(MIRAGE_BUILD="cuda12")
    assert machine.pip_calls()[2] == "install -r requirements.txt"
    machine.add_python("python3", "3.12.1")
    machine.setup()
    assert machine.pip_calls()[4:] == RUN


def test_tested_python_is_preferred(machine: Machine) -> None:
    machine.add_python("python3", "3.13.0")
    assert "version=3.13.0 " in machine.setup("--plan").stdout
    machine.add_python("python3.11", "3.11.4")
    assert "python=python3.11 " in machine.setup("--plan").stdout
    machine.add_python("python3.12", "3.12.9")
    assert "python=python3.12 " in machine.setup("--plan").stdout
    machine.add_python("python3", "3.11.7")
    assert "python=python3 " in machine.setup("--plan").stdout
    assert "python=python3.12 " in machine.setup("--plan", PYTHON="python3.12").stdout


def test_old_python_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", "3.9.18")
    message = one_line(machine.setup())
    assert "3.9.18" in message and "apt-get install python3.11" in message


def test_no_python_is_one_clear_line(machine: Machine) -> None:
    assert "apt-get install python3.11" in one_line(machine.setup())


def test_broken_launcher_is_passed_over(machine: Machine) -> None:
    machine.add("python3.12", "#!/bin/bash\necho 'not installed' >&2\nexit 127\n")
    machine.add_python("python3.11", "3.11.7")
    assert "python=python3.11 " in machine.setup("--plan").stdout


def test_missing_venv_module_names_the_package(machine: Machine) -> None:
    machine.add_python("python3", "3.12.3", no_ensurepip=1, pip_status=1)
    assert "apt-get install python3.12-venv" in one_line(machine.setup())


def test_pip_can_stand_in_for_ensurepip(machine: Machine) -> None:
    machine.add_python("python3", "3.12.3", no_ensurepip=1)
    assert machine.setup().returncode == 0
    assert machine.pip_calls()[0].endswith("/venv/bin/python install pip")
    assert machine.pip_calls()[1:] == RUN


@pytest.mark.skipif(
    Path("/proc/driver/nvidia/version").exists(), reason="has an NVIDIA driver"
)
def test_build_follows_the_driver(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert "build=cpu " in machine.setup("--plan", MIRAGE_BUILD="").stdout
    machine.add("nvidia-smi", "#!/bin/bash\necho 'No devices were found'\nexit 6\n")
    assert "build=cpu " in machine.setup("--plan", MIRAGE_BUILD="").stdout
    machine.add("nvidia-smi", "#!/bin/bash\necho 'GPU 0: NVIDIA GeForce RTX 3090'\n")
    plan = machine.setup("--plan", MIRAGE_BUILD="").stdout
    assert "build=cuda12 requirements=requirements.txt " in plan


def test_unknown_build_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert "MIRAGE_BUILD=rocm" in one_line(machine.setup(MIRAGE_BUILD="rocm"))


def test_gpu_requirements_only_add_the_plugin() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted == ["-r requirements-cpu.txt", "jax[cuda12]"]
