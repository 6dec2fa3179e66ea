"""Every module can be imported, and importing one computes nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.smoke

IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from jax._src import xla_bridge
print("initialised" if xla_bridge.backends_are_initialized() else "untouched")
"""


def module_names(package: str) -> list[str]:
    dotted = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
    ]
    return sorted(name.removesuffix(".__init__") for name in dotted)


LIBRARY = module_names("mirage_jax") + module_names("pallas_kernels")
# Scripts define flags, whose names may clash: a process each.
SCRIPTS = [[name] for name in module_names("experiments")]
# What rivals of experiments/peers need, and nothing else does.
OPTIONAL = ("torch", "diffusers")


@pytest.mark.parametrize("names", [LIBRARY, *SCRIPTS], ids=lambda names: names[-1])
def test_import_touches_no_device(names: list[str]) -> None:
    # In a fresh process: in this one, other tests have long started JAX.
    run = subprocess.run(
        [sys.executable, "-c", IMPORT, *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    missing = re.search(r"No module named '(\w+)'$", run.stderr.strip())
    if missing and missing[1] in OPTIONAL:
        pytest.skip(f"{missing[1]} is not installed")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "untouched"


def test_the_package_alone_is_cheap_to_import() -> None:
    """Whoever asks for its version or its files does not wait for JAX."""
    code = (
        "import mirage_jax, sys; sys.exit(bool({'jax', 'numpy'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert run.returncode == 0
