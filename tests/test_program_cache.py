"""Compiled programs outlive the process that compiled them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import jax, jax.numpy as jnp
from mirage_jax.program_cache import keep_programs

hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(keep_programs())
if jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x @ x))(jnp.ones((4, 4)))
print(sum(name.endswith("cache_hits") for name in hits))
"""


def start(**more: str) -> tuple[str, int]:
    """Folder that a fresh process names, and the programs that it found there."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT)} | more,
        capture_output=True,
        text=True,
        check=True,
    )
    folder, hits = run.stdout.split()
    return folder, int(hits)


def test_a_second_start_finds_what_the_first_compiled(tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    folder, hits = start(**home)
    assert folder == str(tmp_path / "mirage-jax" / "programs") and hits == 0
    assert Path(folder).stat().st_mode & 0o077 == 0  # nobody else's business
    again, hits = start(**home)
    assert again == folder and hits > 0


def test_jaxs_own_settings_come_first(tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    home = {"XDG_CACHE_HOME": str(tmp_path / "home")}
    assert start(**home, JAX_COMPILATION_CACHE_DIR=other)[0] == other
    assert start(**home, JAX_ENABLE_COMPILATION_CACHE="false") == ("None", 0)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("blocked", ["mirage-jax", "mirage-jax/programs"])
def test_a_folder_that_cannot_be_made_costs_nothing_but_time(
    tmp_path: Path, blocked: str
) -> None:
    file = tmp_path / blocked
    file.parent.mkdir(exist_ok=True)
    file.write_text("in the way")
    assert start(XDG_CACHE_HOME=str(tmp_path)) == ("None", 0)
