"""Device time of a training step by the named scope that an operation came from."""

import collections
import re
from collections.abc import Iterator
from typing import Any

from experiments.trace_events import gpu_events
from mirage_jax.errors import MirageError

# What a step is made of, see mirage_jax/training/denoiser.py, rollout.py and step.py.
PARTS = (
    "draw",
    "encode",
    "history",
    "few_step",
    "denoise",
    "roll_out",
    "decode",
    "perceptual",
    "gather",
    "optimiser",
    "average",
)
REST = "rest"
# Within a part what is told apart from all else, which moves memory: products with
# weights, by cuBLAS, and attention.
_PRODUCTS = "__cublas"
_ATTENTION = re.compile(r"frame_attention|dot_product_attention")
# Calls of other operations, which are counted themselves.
_CONTAINERS = ("while", "conditional", "call")
_INSTRUCTION = re.compile(r"%?([\w.\-]+) = .*? ([\w\-]+)\(")
_NAME = re.compile(r'op_name="([^"]*)"')


def scopes_of(program: str, styles: tuple[str, ...]) -> dict[str, str]:
    """The scope of each operation of a compiled program, given as its text.

    Scopes are those of `PARTS`, with what is drawn behind it (`draw/clips`,
    `draw/mosaic`), `backward` where an operation is part of the gradient, and
    `products` or `attention` where it is one; `rest` for operations of none. Loops and
    calls are left out.
    """
    found = {}
    for line in program.splitlines():
        instruction, name = _INSTRUCTION.search(line), _NAME.search(line)
        if instruction is None or instruction[2] in _CONTAINERS:
            continue
        scope = _scope(name[1] if name else "", styles)
        if name and _ATTENTION.search(name[1]):
            scope += "/attention"
        elif _PRODUCTS in line:
            scope += "/products"
        found[instruction[1]] = scope
    return found


def _scope(name: str, styles: tuple[str, ...]) -> str:
    # Transformations wrap a segment of the path: transpose(jvp(decode)).
    path = [re.sub(r"\w+\(|\)", "", part) for part in name.split("/")]
    part = next((part for part in path if part in PARTS), REST)
    if part == "draw":
        made = next((name for name in path if name in (*styles, "clips")), None)
        return f"{part}/{made}" if made else part
    return f"{part}/backward" if "transpose(" in name else part


def scope_times(
    profile: Any, scopes: dict[str, str], module: str
) -> dict[str, tuple[float, float]]:
    """Milliseconds and operations by scope, the longest first.

    Args:
      profile: of `trace_events.profile_of`.
      scopes: of `scopes_of`.
      module: the compiled program's name in the profile.

    Raises:
      MirageError: the profile has no operation of the program.
    """
    time: dict[str, float] = collections.defaultdict(float)
    count: collections.Counter[str] = collections.Counter()
    events = list(gpu_events(profile)) or list(_cpu_events(profile))
    for event in events:
        stats = dict(event.stats)
        scope = scopes.get(stats.get("hlo_op", ""))
        if scope is None or stats.get("hlo_module") != module:
            continue
        time[scope] += event.duration_ns / 1e6
        count[scope] += 1
    if not time:
        raise MirageError(f"the profiler saw no operation of {module}")
    longest = sorted(time, key=lambda scope: -time[scope])
    return {scope: (time[scope], float(count[scope])) for scope in longest}


def _cpu_events(profile: Any) -> Iterator[Any]:
    for plane in profile.planes:
        if plane.name == "/host:CPU":
            for line in plane.lines:
                yield from line.events
