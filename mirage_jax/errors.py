"""The one exception that a user is meant to read, and what others say in it."""


class MirageError(Exception):
    """A failure the user can cure: one line that names the value and the cure.

    `main.py` and the experiments print the message without a traceback and exit
    with code 1.
    """


def reason_of(error: Exception) -> str:
    """What the system or a library says of its error: one line, never empty.

    Errors of the system, and PyAV's, have a text without number and path.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
