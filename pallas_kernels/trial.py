"""A trial compilation before a backend is trusted that nobody asked for by name.

Inside a program a failure could not be caught any more: it comes when the whole program
is compiled, long after the dispatcher has been traced.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import device
from pallas_kernels.choice import Op, backend_order


class Trials:
    """Picks the backend of one operation, and remembers which compiles for what sizes.

    Args:
      op: the operation; the last of its unmeasured backends needs no trial.
      what: the operation in words, for the warning.

    Attributes:
      last: the backend that was picked most recently.
    """

    def __init__(self, op: Op, what: str):
        self._op = op
        self._what = what
        self._failures: dict[tuple[str, Any], str | None] = {}
        self._warned: set[str] = set()
        self.last: str | None = None

    def forget(self) -> None:
        """As if nothing had been tried."""
        self._failures.clear()
        self._warned.clear()

    def pick(
        self,
        name: str | None,
        problem: Any,
        run: Callable[[str], Callable[..., Any]],
        *operands: Any,
    ) -> str:
        """The backend that was asked for by name, else the best that compiles here.

        The order is that of the device's table. A backend that says
        `NotImplementedError` is passed over; one that fails in another way too, with
        one warning.

        Args:
          name: of a backend, or None.
          problem: hashable; what decides, with the name, whether a backend compiles.
          run: by name, the function that a trial compiles by itself.
          operands: of that function, of which the shapes and types count.
        """
        if name is None:
            safe = self._op.unmeasured[-1]
            order = backend_order(self._op, problem, device.present())
            name = next(
                candidate
                for candidate in order
                if candidate == safe or self._usable(candidate, problem, run, operands)
            )
        self.last = name
        return name

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
