"""Times of kernels inside one compiled program, and the ceilings they run against.

A kernel of a few microseconds cannot be timed call by call from the host: dispatch
takes longer. So a program makes a few hundred calls, each fed with the output of the
one before, and its time is divided by their number. Nothing is subtracted.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

Step = Callable[[Any, Any], Any]  # (carry, operands) -> carry of the same kind
Sets: TypeAlias = "Sequence[Any] | Stack"


@dataclasses.dataclass(frozen=True)
class Timed:
    """What a program of many calls gave.

    Attributes:
      first: output of the first call, to be checked.
      microseconds: median over the repeats, a call.
      spread: third less first quartile of the repeats, a call.
    """

    first: Any
    microseconds: float
    spread: float


@dataclasses.dataclass(frozen=True)
class Chain:
    """A compiled program of `calls` calls that depend on each other."""

    run: Callable[..., tuple[Any, Any]]
    calls: int

    def time(self, carry: Any, sets: Sets, repeats: int) -> Timed:
        """Runs once to warm up, then `repeats` times by the clock."""
        first, _ = jax.block_until_ready(self.run(carry, sets))
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(self.run(carry, sets))
            seconds.append(time.perf_counter() - begin)
        scale = 1e6 / self.calls
        first_quartile, _, third = (
            statistics.quantiles(seconds, n=4) if repeats > 1 else 3 * seconds
        )
        spread = (third - first_quartile) * scale
        return Timed(first, statistics.median(seconds) * scale, spread)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """Sets of operands that lie one behind the other, as the layers of a model do.

    Attributes:
      operands: a tree of arrays whose first axis counts the sets.
      count: of sets.
    """

    operands: Any
    count: int = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)  # where iteration ends
        return jax.tree.map(lambda x: x[index], self.operands)


@dataclasses.dataclass(frozen=True)
class Program:
    """About `wanted` calls of a step: all sets in turn, at least eight a round.

    (Where fewer are wanted, fewer are a round, which is quicker to compile.)

    Sets of operands that together exceed the L2 cache keep it cold, as it is between
    the layers of a model. They are separate arguments, or a `Stack` where a model has
    one too: whether a set is read there in place or copied out of it is then part of
    what is timed. The rounds are a loop, whose turns cost the host something; eight
    calls a turn hide that.

    Attributes:
      step: what is called.
      sets: how many sets of operands there are.
      wanted: calls, about.
    """

    step: Step
    sets: int
    wanted: int

    @property
    def _round(self) -> list[int]:
        return list(range(self.sets)) * max(1, -(-min(8, self.wanted) // self.sets))

    @property
    def _rounds(self) -> int:
        return max(1, round(self.wanted / len(self._round)))

    @property
    def calls(self) -> int:
        """How many it makes."""
        return 1 + self._rounds * len(self._round)

    def __call__(self, carry: Any, sets: Sets) -> tuple[Any, Any]:
        """Output of the first call, and of the last."""
        one = jax.jit(self.step)  # traced and lowered once, however often it is called
        first = one(carry, sets[0])

        def turn(_: Array, carry: Any) -> Any:
            for index in self._round:
                carry = one(carry, sets[index])
            return carry

        return first, jax.lax.fori_loop(0, self._rounds, turn, first)


def compile_chain(step: Step, carry: Any, sets: Sets, calls: int) -> Chain:
    """Compiles a `Program` of these operands."""
    program = Program(step, len(sets), calls)
    return Chain(jax.jit(program).lower(carry, sets).compile(), program.calls)


def relative_error(found: Any, wanted: Any) -> float:
    """|found - wanted| / |wanted|, float32; not a number if anything is not.

    Of trees of arrays the worst array's.
    """

    def one(found: Array, wanted: Array) -> Array:
        found, wanted = (x.astype(jnp.float32) for x in (found, wanted))
        return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)

    errors = jax.tree.leaves(jax.tree.map(one, found, wanted))
    return float(jnp.max(jnp.stack(errors)))


@functools.cache
def copy_bandwidth(mebibytes: int) -> float:
    """Bytes a second, read and written, of adding a number to a large array."""
    turns = 16
    x = jnp.ones(mebibytes * 2**18, jnp.float32)

    @jax.jit
    def program(x: Array, y: Array) -> Array:
        # One turn a kernel: additions side by side would be fused into one.
        return jax.lax.fori_loop(0, turns, lambda _, x: x + y, x)

    return 2 * x.nbytes * turns / _median_seconds(program, x, jnp.float32(0.5))


@functools.cache
def matmul_rate(side: int) -> float:
    """Floating-point operations a second of a large bfloat16 product."""
    turns = 16
    keys = jax.random.split(jax.random.key(0))
    x, w = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)

    @jax.jit
    def program(x: Array, w: Array) -> Array:
        return jax.lax.fori_loop(0, turns, lambda _, x: x @ w, x)

    w = w * side**-0.5  # keeps the numbers of order 1
    return 2 * side**3 * turns / _median_seconds(program, x, w)


def _median_seconds(program: Callable[..., Array], *operands: Array) -> float:
    jax.block_until_ready(program(*operands))
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(program(*operands))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
