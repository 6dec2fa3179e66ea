"""Settings of every test: CPU by default, strict shapes, reproducible, warm compiles.

They are environment variables, set before JAX is imported, so that programs started
by a test run under the same ones.
"""

import gc
import importlib.metadata
import os
import random
from collections.abc import Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from absl import flags

ROOT = Path(__file__).parent.parent

# A test must not depend on the machine's accelerator; `make test-gpu` sets its own.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes most of the suite's time, and frames this small run as fast without
# what the compiler does for speed. Programs for a GPU are compiled as users get them.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1":
    # What is left is halved where no fusion is lowered through MLIR, which JAX 0.10 can
    # do without; later ones end at a flag that they do not know. To cut a program into
    # parts for many cores costs time that the workers of the suite do not have.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags_of_xla = "--xla_cpu_use_fusion_emitters=false"
        flags_of_xla += " --xla_cpu_parallel_codegen_split_count=1"
        os.environ.setdefault("XLA_FLAGS", flags_of_xla)
# The second run of the suite, and the second worker, find the programs compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# [B, T] + [T] is almost always a mistake in code whose axes all have names.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

# Traced programs are many small objects that live: looking through them for rubbish as
# often as Python does takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)

hypothesis.settings.register_profile(
    "reproducible", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("reproducible")


_set_flag = flags.FlagValues.__setitem__


def _replace_flag(self: flags.FlagValues, name: str, flag: flags.Flag) -> None:
    """Each script is a process of its own and may name its flags as it likes.

    The tests import several into one process: there the last one has the name.
    """
    if name in self:
        delattr(self, name)
    _set_flag(self, name, flag)


flags.FlagValues.__setitem__ = _replace_flag  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same state of the global random generators."""
    random.seed(0)
    np.random.seed(0)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where JAX finds no GPU, and say why."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import jax

    if jax.default_backend() == "gpu":
        return
    platforms = os.environ["JAX_PLATFORMS"]
    for item in marked:
        item.add_marker(
            pytest.mark.skip(reason=f"needs an NVIDIA GPU (JAX_PLATFORMS={platforms})")
        )
