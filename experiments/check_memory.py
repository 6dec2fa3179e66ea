"""Calls every kernel of ours once at shapes that fill no block, to be watched.

    python -m experiments.check_memory
    python -m experiments.check_memory --sanitizer=memcheck --sanitizer=racecheck

The first form compares each call with its definition, which runs on the CPU, prints a
line for every operation and backend, and exits with 1 where one is wrong. The second
runs that for one operation and backend after the other, each in a process of its own
under NVIDIA's compute-sanitizer, which reports accesses outside of what a kernel was
given (memcheck), races in shared memory (racecheck), or reads of what nobody wrote
(initcheck). It writes one JSON file and exits with 1 where there was an error or a
process came to no end. With --interpret Triton's kernels run as plain JAX on any
device, to test the script.
"""

import functools
import os
import sys
from collections.abc import Sequence

import jax
from absl import app, flags

from experiments.command import command
from experiments.memory_calls import OPERATIONS, Call, able, calls
from experiments.sanitizer import OWN_ALLOCATIONS, TOOLS, find_program, run_under
from mirage_jax.errors import MirageError
from mirage_jax.results import Result, device_setup, write_results
from pallas_kernels import device
from pallas_kernels.timing import relative_error

_OPS = flags.DEFINE_list("ops", [], "Names of operations; all by default.")
_BACKENDS = flags.DEFINE_list("backends", [], "triton, mosaic; both by default.")
_SANITIZER = flags.DEFINE_multi_enum(
    "sanitizer", [], list(TOOLS), "Tools to run under; may be given several times."
)
_SECONDS = flags.DEFINE_float("seconds", 300.0, "Time for a process under a tool.")
_INTERPRET = flags.DEFINE_bool("interpret", False, "Run the kernels as plain JAX.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/sanitizer_<device>.json by default."
)

Pair = tuple[str, str]  # operation and backend


def check_memory() -> bool:
    """Runs what the flags ask for; whether anything was wrong, or not proved."""
    # Also for whoever starts compute-sanitizer by hand; JAX has not met the GPU yet.
    os.environ.update(OWN_ALLOCATIONS)
    card = device.present()
    if card is None and not _INTERPRET.value:
        raise MirageError(
            "no NVIDIA GPU here; --interpret runs Triton's kernels without"
        )
    pairs = _chosen(None if _INTERPRET.value else card)
    if _SANITIZER.value:
        return _watch(pairs, "interpreter" if card is None else card.slug)
    wrong = [pair for pair in pairs if not _right(pair)]
    return bool(wrong)


def _chosen(card: device.Device | None) -> list[Pair]:
    """Operations and backends that the flags name and the card has."""
    everything = [
        (op, backend) for op in OPERATIONS for backend in OPERATIONS[op].kernels
    ]
    for flag, place in (_OPS, 0), (_BACKENDS, 1):
        known = list(dict.fromkeys(pair[place] for pair in everything))
        for name in flag.value:
            if name not in known:
                raise MirageError(
                    f"--{flag.name}: {name!r} is none of {', '.join(known)}"
                )
    pairs = [
        (op, backend)
        for op, backend in everything
        if (not _OPS.value or op in _OPS.value)
        and (not _BACKENDS.value or backend in _BACKENDS.value)
        and able(backend, card)
    ]
    if not pairs:
        here = "the interpreter" if card is None else card.kind
        raise MirageError(
            f"--ops={','.join(_OPS.value)} --backends={','.join(_BACKENDS.value)}: "
            f"{here} has no such kernel with jax {jax.__version__}"
        )
    return pairs


def _right(pair: Pair) -> bool:
    """Whether a backend returns what the definition does, wherever it can run."""
    op, backend = pair
    done, unable, worst, wrong = 0, 0, 0.0, []
    with jax.default_device(_cpu()):
        drawn = list(calls(op, small=_INTERPRET.value))
    for shape, call in drawn:
        try:
            error = _error(op, backend, call)
        except NotImplementedError:
            unable += 1
            continue
        except Exception as failure:  # of compiler or driver: the other calls go on
            first = (str(failure).splitlines() or [""])[0]
            wrong.append(f"{shape}: {type(failure).__name__}: {first[:120]}")
            continue
        done, worst = done + 1, max(worst, error)
        if not error <= call.tolerance:  # what is no number is wrong
            wrong.append(f"{shape}: error {error:.1e}, at most {call.tolerance:g}")
    verdict = f"WRONG: {'; '.join(wrong)}" if wrong else "right" if done else "NONE RAN"
    print(
        f"{op}/{backend}: {done} calls, {unable} that it does not take, "
        f"error up to {worst:.1e}: {verdict}",
        flush=True,
    )
    return bool(done) and not wrong


def _error(op: str, backend: str, call: Call) -> float:
    """Relative error of one call against its definition.

    The GPU runs our kernel and nothing else that a tool would have to watch.

    Raises:
      NotImplementedError: the backend cannot do this.
    """
    kernel = OPERATIONS[op].kernels[backend]
    if _INTERPRET.value:
        kernel = functools.partial(kernel, interpret=True)
    ours = jax.jit(functools.partial(kernel, **call.named))
    found = jax.device_get(ours(*jax.device_put(call.operands, jax.local_devices()[0])))
    with jax.default_device(_cpu()):
        exact = jax.jit(functools.partial(OPERATIONS[op].definition, **call.named))
        return relative_error(found, jax.device_get(exact(*call.operands)))


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise MirageError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} hides the CPU, on which "
            "the definitions run: set JAX_PLATFORMS=cuda,cpu"
        ) from error


def _watch(pairs: Sequence[Pair], slug: str) -> bool:
    """Each operation and backend under each tool; whether anything was found."""
    find_program()
    out = _OUT.value or f"docs/results/sanitizer_{slug}.json"
    setup = device_setup() | {"interpret": _INTERPRET.value, "unproved": {}}
    results: list[Result] = []
    for tool in dict.fromkeys(_SANITIZER.value):
        for op, backend in pairs:
            line = [
                *(sys.executable, "-m", "experiments.check_memory"),
                *(f"--ops={op}", f"--backends={backend}"),
                f"--interpret={_INTERPRET.value}",
            ]
            finding = run_under(tool, line, _SECONDS.value)
            name = f"{tool}/{op}/{backend}"
            if finding.errors is not None:
                results.append(Result(f"errors/{name}", finding.errors, "", "lower"))
            if finding.failure is not None:
                setup["unproved"][name] = finding.failure
            if finding.errors or finding.failure:
                print(finding.report[:4000])
            counted = "unknown" if finding.errors is None else finding.errors
            print(f"{name}: errors {counted}; {finding.failure or 'done'}", flush=True)
            # A run that is cut off keeps what it has.
            write_results(out, "experiments/check_memory.py", setup, results)
    print(f"results in {out}")
    return bool(setup["unproved"]) or any(result.value for result in results)


main = command("check_memory", check_memory)

if __name__ == "__main__":
    app.run(main)
