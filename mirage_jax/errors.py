"""The one exception that a user is meant to read."""


class MirageError(Exception):
    """A failure the user can cure: one line that names the value and the cure.

    `main.py` and the experiments print the message without a traceback and exit
    with code 1.
    """
