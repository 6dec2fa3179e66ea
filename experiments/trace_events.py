"""What JAX's profiler notes of some calls, event by event."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


def profile_of(
    run: Callable[[], object], options: jax.profiler.ProfileOptions | None = None
) -> Any:
    """Runs something under the profiler; the `jax.profiler.ProfileData` of all of it.

    Args:
      run: what is traced; it waits for what it starts.
      options: of the profiler; None takes its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return jax.profiler.ProfileData.from_file(str(path))


def gpu_events(profile: Any) -> Iterator[Any]:
    """Events of kernels and copies, as the GPU noted them; none where it saw none."""
    for plane in profile.planes:
        if plane.name.startswith("/device:GPU"):
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    yield from line.events
