"""A trial compilation before a backend is trusted that nobody asked for by name.

Inside a program a failure could not be caught any more: it comes when the whole program
is compiled, long after the dispatcher has been traced.
"""

import warnings
from collections.abc import Callable
from typing import Any

# (backend, problem): compiles, or raises whatever it raises
Compile = Callable[[str, Any], object]


class Trials:
    """Remembers, for one operation, which backend compiles here for which sizes.

    Args:
      what: the operation, in words, for the warning.
      compile_alone: compiles one backend for one problem.
      fallback: the backend that everything falls back to, taken without a trial.
    """

    def __init__(self, what: str, compile_alone: Compile, fallback: str = "xla"):
        self._what = what
        self._compile = compile_alone
        self._fallback = fallback
        self._failures: dict[tuple[str, Any], str | None] = {}
        self._warned: set[str] = set()

    def forget(self) -> None:
        """As if nothing had been tried."""
        self._failures.clear()
        self._warned.clear()

    def failure(self, name: str, problem: Any) -> str | None:
        """Why a backend does not compile here for these sizes; None where it does."""
        key = name, problem
        if key not in self._failures:
            try:
                self._compile(name, problem)
            except Exception as error:  # a live stream must go on without it
                first = (str(error).splitlines() or [""])[0]
                self._failures[key] = f"{type(error).__name__}: {first[:200]}"
            else:
                self._failures[key] = None
        return self._failures[key]

    def usable(self, name: str, problem: Any) -> bool:
        """Whether a backend can be trusted; warns once a backend where it fails.

        That it cannot do this (`NotImplementedError`) is no failure.
        """
        if name == self._fallback:
            return True
        failure = self.failure(name, problem)
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
