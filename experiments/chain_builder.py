"""Builds many chains of calls at once: lowered in processes, compiled in threads.

Lowering a Pallas kernel is Python, which one process runs on one core however many
threads it has. So processes lower: they have no GPU and are told of the card, export
the whole program and send it back as bytes. XLA compiles what comes back in threads of
this process, as its C++ runs outside of Python's lock.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Hashable, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from jax import export

from mirage_jax.errors import MirageError
from pallas_kernels import timing
from pallas_kernels._compat import CUSTOM_CALLS
from pallas_kernels.device import Device, pretended
from pallas_kernels.timing import Chain, Program, Sets, Stack, Step

Name = TypeVar("Name", bound=Hashable)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {line[:160]}"


def _on_the_cpu() -> None:
    """Run first in every process, so that none takes memory of the GPU."""
    jax.config.update("jax_platforms", "cpu")


def lower(program: Program, operands: Any, card: Device | None) -> bytes:
    """A program for operands given as a tree of shapes, lowered for a card.

    Its operands and results are flat lists: an exported program does not carry named
    tuples.

    Args:
      card: that is not there; None lowers for the CPU.

    Raises:
      RuntimeError: it does not lower, in one line, which travels between processes as
        an error of any library may not.
    """
    leaves, tree = jax.tree.flatten(operands)

    def flat(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(program(*jax.tree.unflatten(tree, leaves)))

    checks = [export.DisabledSafetyCheck.custom_call(name) for name in CUSTOM_CALLS]
    there = contextlib.nullcontext() if card is None else pretended(card)
    try:
        with there:
            exported = export.export(
                jax.jit(flat),
                platforms=("cpu" if card is None else "cuda",),
                disabled_checks=checks,
            )(*leaves)
            return bytes(exported.serialize())
    except Exception as error:  # a configuration may fail in any way
        raise RuntimeError(first_line(error)) from None


def compile_lowered(data: bytes, program: Program, carry: Any, sets: Any) -> Chain:
    """What `lower` gave as a chain that runs here."""
    exported = export.deserialize(bytearray(data))

    def run(carry: Any, sets: Any) -> Any:
        found = exported.call(*jax.tree.leaves((carry, sets)))
        return jax.tree.unflatten(jax.tree.structure((carry, carry)), found)

    return Chain(jax.jit(run).lower(carry, sets).compile(), program.calls)


class ChainBuilder:
    """Processes that lower and threads that compile, kept for many cases.

    Args:
      card: what to lower for; None for the CPU.
      workers: processes; twice as many threads wait for them and compile.
    """

    def __init__(self, card: Device | None, workers: int):
        self._card = card
        self._stack = contextlib.ExitStack()
        self._threads = self._stack.enter_context(ThreadPoolExecutor(2 * workers))
        self._processes = self._stack.enter_context(
            ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _on_the_cpu
            )
        )
        # All start now: they import for seconds.
        self._ready = [self._processes.submit(time.sleep, 0) for _ in range(workers)]

    def __enter__(self) -> "ChainBuilder":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def build(
        self,
        steps: Mapping[Name, tuple[Step, bool]],
        carry: Any,
        sets: Sets,
        calls: int,
        seconds: float,
    ) -> dict[Name, Chain | str]:
        """A chain of each step, or the line that says why there is none.

        Args:
          steps: in order, with whether it is a kernel of ours, for a process to lower.
          carry, sets, calls: as in `timing.compile_chain`.
          seconds: after which no kernel is begun any more; those are left out.

        Raises:
          MirageError: a process died.
        """
        for ready in self._ready:
            ready.result()
        deadline = time.perf_counter() + seconds
        sets = sets if isinstance(sets, Stack) else list(sets)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (carry, sets)
        )

        def one(step: Step, ours: bool) -> Chain | str | None:
            try:
                if not ours:
                    return timing.compile_chain(step, carry, sets, calls)
                if time.perf_counter() > deadline:
                    return None
                program = Program(step, len(sets), calls)
                lowered = self._processes.submit(lower, program, shapes, self._card)
                return compile_lowered(lowered.result(), program, carry, sets)
            except BrokenExecutor as error:
                raise MirageError(
                    f"a process that lowers kernels died ({error}): try fewer --workers"
                ) from error
            except Exception as error:  # one that does not compile is no candidate
                return first_line(error)

        found = self._threads.map(one, *zip(*steps.values(), strict=True))
        named = zip(steps, found, strict=True)
        return {name: chain for name, chain in named if chain is not None}
