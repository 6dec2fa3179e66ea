"""Every module can be imported, and importing one computes nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.smoke

# What others have written is imported once: most of our modules need most of it. Then
# each of ours has a process of its own, which a fork gives in no time, as its flags may
# clash with those of others.
IMPORT = """
import importlib, json, os, sys, traceback
import absl.app, av, flax.linen, jax, jaxtyping, numpy, optax, tokenizers
import jax.experimental.mosaic.gpu
import jax.experimental.pallas.mosaic_gpu
import jax.experimental.pallas.triton
import ml_collections.config_flags
import orbax.checkpoint
from jax._src import xla_bridge

for names in json.load(sys.stdin):
    sys.stdout.flush()
    if os.fork():
        os.wait()
        continue
    try:
        for name in names:
            importlib.import_module(name)
        error = ""
    except BaseException:
        error = traceback.format_exc()
    untouched = not xla_bridge.backends_are_initialized()
    print(json.dumps([names[-1], error, untouched]), flush=True)
    os._exit(0)
"""


def module_names(package: str) -> list[str]:
    dotted = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
    ]
    return sorted(name.removesuffix(".__init__") for name in dotted)


LIBRARY = module_names("mirage_jax") + module_names("pallas_kernels")
GROUPS = [LIBRARY, *([name] for name in module_names("experiments"))]
# What rivals of experiments/peers need, and nothing else does.
OPTIONAL = ("torch", "diffusers")


@pytest.fixture(scope="module")
def imported() -> dict[str, tuple[str, bool]]:
    """By the last name of a group: the error, and whether no device was touched."""
    # In fresh processes: in this one, other tests have long started JAX.
    run = subprocess.run(
        [sys.executable, "-c", IMPORT],
        input=json.dumps(GROUPS),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = map(json.loads, run.stdout.splitlines())
    return {name: (error, untouched) for name, error, untouched in found}


@pytest.mark.parametrize("name", [names[-1] for names in GROUPS])
def test_import_touches_no_device(
    name: str, imported: dict[str, tuple[str, bool]]
) -> None:
    error, untouched = imported[name]
    missing = re.search(r"No module named '(\w+)'$", error.strip())
    if missing and missing[1] in OPTIONAL:
        pytest.skip(f"{missing[1]} is not installed")
    assert not error, error
    assert untouched


def test_the_package_alone_is_cheap_to_import() -> None:
    """Whoever asks for its version or its files does not wait for JAX."""
    code = (
        "import mirage_jax, sys; sys.exit(bool({'jax', 'numpy'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert run.returncode == 0
