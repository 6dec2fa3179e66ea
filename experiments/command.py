"""What every script does around its work."""

import sys
from collections.abc import Callable, Sequence

from absl import app, logging

from mirage_jax.errors import MirageError
from mirage_jax.interrupts import raise_dropped_interrupts


def command(
    name: str, run: Callable[..., object], operands: int = 0
) -> Callable[[Sequence[str]], None]:
    """A `main` for `app.run` that says in one line what the user can cure.

    Args:
      name: of the script, before every message.
      run: the work, once flags are parsed. True means that its own check failed.
      operands: how many arguments that are no flags `run` takes: all of them or none.

    Returns:
      A function that exits with 1 after a `MirageError` or a failed check, and refuses
      any other number of arguments that are no flags.
    """

    def main(argv: Sequence[str]) -> None:
        if len(argv) - 1 not in (0, operands):
            raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
        raise_dropped_interrupts()
        logging.set_verbosity(logging.WARNING)  # orbax tells every file it writes
        try:
            failed = run(*argv[1:])
        except MirageError as error:
            sys.exit(f"{name}: {error}")
        if failed:
            sys.exit(1)

    return main
