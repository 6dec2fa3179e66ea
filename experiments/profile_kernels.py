"""Lists the kernels that a program runs on the present GPU, with the time of each.

    python -m experiments.profile_kernels --size=lsd_880m --programs=encode,pass,decode

Traces some calls of each program with JAX's profiler and adds up what the device itself
notes of every kernel. A pass is that of `experiments.bench_pass`; encode and decode are
the codec's, from and to bytes. A size without weights gets random ones: time does not
depend on them. Writes one JSON file, prints the longest.
"""

import collections
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.command import command
from experiments.named_model import load_named
from experiments.pass_programs import Pass, one_pass, side_of, stream_of
from experiments.trace_events import gpu_events, profile_of
from mirage_jax.config import ModelConfig
from mirage_jax.device_weights import held_weights
from mirage_jax.errors import MirageError
from mirage_jax.frame_compiler import frame_program, settled
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.stream import decode_frame, encode_frame
from mirage_jax.stream_config import StreamConfig
from pallas_kernels import device

_SIZE = flags.DEFINE_string("size", "lsd_880m", "A named size, or a folder of weights.")
_TOKENS = flags.DEFINE_integer("tokens", 256, "Tokens of a frame, a square number.")
_COMBINATION = flags.DEFINE_string(
    "combination", "kernels", "What runs: see experiments/pass_programs.py."
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["encode", "pass", "decode"], "Of encode, pass and decode."
)
_CALLS = flags.DEFINE_integer("calls", 10, "Calls that are traced.")
_SHOWN = flags.DEFINE_integer("shown", 12, "Kernels printed for a program.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/profile_<size>_<device>.json by default."
)

WARM_UP = 3
# (weights, carry, model=, stream=) -> carry, and weights -> the first carry
Program = tuple[Callable[..., Any], Callable[[Any], Any]]


def profile_kernels() -> None:
    """Traces what the flags ask for."""
    card = device.present()
    if card is None:
        raise MirageError("no NVIDIA GPU here")
    named = load_named(_SIZE.value)
    model, side = named.config, side_of(_TOKENS.value, named.config)
    stream = stream_of(_COMBINATION.value, side, True)
    params = held_weights(named.params, stream)
    programs = _programs(model, stream)
    if unknown := set(_PROGRAMS.value) - programs.keys():
        raise MirageError(f"--programs: {min(unknown)!r} is none of {list(programs)}")
    results: list[Result] = []
    for name in _PROGRAMS.value:
        call, first = programs[name]
        run = frame_program(call, model, stream, donate=1)
        kernels = by_kernel(_trace(run, params, first(params)), _CALLS.value)
        print(table(name, kernels, _SHOWN.value), flush=True)
        results += to_results(name, kernels)
    setup = device_setup() | {
        "model": _SIZE.value,
        "tokens": _TOKENS.value,
        "combination": _COMBINATION.value,
        "stream": str(settled(model, stream)),
        "calls": _CALLS.value,
    }
    slug = Path(_SIZE.value).name
    out = _OUT.value or f"docs/results/profile_{slug}_{card.slug}.json"
    write_results(out, "experiments/profile_kernels.py", setup, results)
    print(f"results in {out}")


def _programs(model: ModelConfig, stream: StreamConfig) -> dict[str, Program]:
    """What may be traced: functions of weights and a carry that return the next."""
    grid = (1, *stream.grid, model.codec.channels)
    pictures = (1, stream.height, stream.width, 3)
    key = jax.random.key(0)

    def encode(params: Any, picture: Any, **how: Any) -> Any:
        latent = encode_frame(params, source=picture, **how)
        # The next call's picture, so that calls are no copies of each other.
        return picture ^ (latent[0, 0, 0, 0] > 0).astype(jnp.uint8)

    def decode(params: Any, latent: Any, **how: Any) -> Any:
        picture = decode_frame(params, styled=latent, **how)
        return latent + 1e-3 * picture[0, 0, 0, 0].astype(jnp.float32)

    return {
        "encode": (encode, lambda _: jax.random.bits(key, pictures, jnp.uint8)),
        "pass": (
            lambda params, carry, **how: one_pass(params["denoiser"], carry, **how),
            lambda params: jax.jit(Pass(model, stream).carry)(params["denoiser"]),
        ),
        "decode": (decode, lambda _: jax.random.normal(key, grid)),
    }


def _trace(run: Callable[..., Any], params: Any, carry: Any) -> Any:
    """The profile of some calls, after others that warm up."""
    for _ in range(WARM_UP):
        carry = run(params, carry)
    jax.block_until_ready(carry)

    def calls() -> None:
        nonlocal carry
        for _ in range(_CALLS.value):
            carry = run(params, carry)
        jax.block_until_ready(carry)

    return profile_of(calls)


def by_kernel(profile: Any, calls: int) -> dict[str, tuple[float, float]]:
    """Microseconds and launches of a call, by the kernel's name without its number.

    Raises:
      MirageError: the profile has no kernels.
    """
    time: dict[str, float] = collections.defaultdict(float)
    count: collections.Counter[str] = collections.Counter()
    for event in gpu_events(profile):
        name = re.sub(r"(_\d+)+$", "", event.name)
        time[name] += event.duration_ns / 1e3 / calls
        count[name] += 1
    if not time:
        raise MirageError("the profiler saw no kernel on the GPU: may it count there?")
    longest = sorted(time, key=lambda name: -time[name])
    return {name: (time[name], count[name] / calls) for name in longest}


def table(program: str, kernels: dict[str, tuple[float, float]], shown: int) -> str:
    """The program's sum, and its longest kernels."""
    total = sum(time for time, _ in kernels.values())
    launches = sum(count for _, count in kernels.values())
    lines = [f"{program}: {total:.1f} us in {launches:.0f} kernels"]
    for name, (time, count) in list(kernels.items())[:shown]:
        each = time / count
        lines.append(f"  {time:9.1f} us  {count:6.1f} x {each:8.2f} us  {name[:60]}")
    return "\n".join(lines)


def to_results(program: str, kernels: dict[str, tuple[float, float]]) -> list[Result]:
    """`us/<program>/<kernel>` and `launches/<program>/<kernel>`, and both sums."""
    total = {
        "all": tuple(sum(numbers) for numbers in zip(*kernels.values(), strict=True))
    }
    results = []
    for name, (time, count) in (total | kernels).items():
        results.append(Result(f"us/{program}/{name}", round(time, 3), "us", "lower"))
        results.append(Result(f"launches/{program}/{name}", count, "", "lower"))
    return results


main = command("profile_kernels", profile_kernels)

if __name__ == "__main__":
    app.run(main)
