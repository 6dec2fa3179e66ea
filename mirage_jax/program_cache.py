"""Compiled programs are kept from run to run, so that the second start is quick."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax

LARGEST = 4 * 2**30  # bytes of all programs; the least recently used go first
_WORTH = 0.5  # seconds of compilation


def program_folder() -> Path:
    """Where this user's programs are kept: in XDG_CACHE_HOME or its default."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mirage-jax" / "programs"


def keep_programs() -> Path | None:
    """Lets JAX keep what it compiles, and find it again in later runs.

    A program is found again if it, the device, JAX's release and XLA's flags are the
    same. Whoever sets JAX's own variables (JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE) has them respected. To be called before anything is
    compiled.

    Returns:
      The folder; None where nothing is kept, because it is not wanted or the folder
      cannot be written, which costs time and nothing else.
    """
    settings: Any = jax.config  # whose names no type checker knows
    if not settings.jax_enable_compilation_cache:
        return None
    if settings.jax_compilation_cache_dir:
        return Path(settings.jax_compilation_cache_dir)
    folder = program_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH)
    return folder
