"""A trial compilation before a backend is trusted that nobody asked for by name.

Inside a program a failure could not be caught any more: it comes when the whole program
is compiled, long after the dispatcher has been traced.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


class Trials:
    """Remembers, for one operation, which backend compiles here for which sizes.

    `last` is the backend that the dispatcher's most recently traced call used.

    Args:
      what: the operation, in words, for the warning.
      fallback: the backend that everything falls back to, taken without a trial.
    """

    def __init__(self, what: str, fallback: str = "xla"):
        self._what = what
        self._fallback = fallback
        self._failures: dict[tuple[str, Any], str | None] = {}
        self._warned: set[str] = set()
        self.last: str | None = None

    def forget(self) -> None:
        """As if nothing had been tried."""
        self._failures.clear()
        self._warned.clear()

    def first(
        self,
        order: Iterable[str],
        problem: Any,
        run: Callable[[str], Callable[..., Any]],
        *operands: Any,
    ) -> str:
        """The first backend that compiles here, or can be taken without a trial.

        A backend that says `NotImplementedError` is passed over; one that fails in
        another way too, with one warning.

        Args:
          order: names, best first; the fallback among them.
          problem: hashable; what decides, with the name, whether a backend compiles.
          run: by name, the function that a trial compiles by itself.
          operands: of that function, of which the shapes and types count.
        """
        for name in order:
            if name == self._fallback or self._usable(name, problem, run, operands):
                return name
        raise ValueError(f"{self._fallback!r} is missing in {order=}")

    def _usable(
        self,
        name: str,
        problem: Any,
        run: Callable[[str], Callable[..., Any]],
        operands: tuple[Any, ...],
    ) -> bool:
        key = name, problem
        if key not in self._failures:
            self._failures[key] = _failure(run(name), operands)
        failure = self._failures[key]
        if failure is None:
            return True
        unsupported = failure.startswith(NotImplementedError.__name__)
        if not unsupported and name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"{self._what} goes on without {name!r}, which fails for {problem}: "
                f"{failure}",
                RuntimeWarning,
                stacklevel=4,
            )
        return False


def _failure(call: Callable[..., Any], operands: tuple[Any, ...]) -> str | None:
    """Why a function does not compile by itself; None where it does."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), operands
    )
    try:
        jax.jit(call).lower(*shapes).compile()
    except Exception as error:  # whatever it is, a live stream must go on without it
        first = (str(error).splitlines() or [""])[0]
        return f"{type(error).__name__}: {first[:200]}"
    return None
