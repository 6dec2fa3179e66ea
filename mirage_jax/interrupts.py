"""Ctrl-C and SIGTERM that arrive where Python drops exceptions."""

from __future__ import annotations

import signal
import sys
import threading

_AGAIN_SECONDS = 0.01  # long enough to have left the callback that dropped the first


def raise_dropped_interrupts() -> None:
    """Lets a signal that was answered by an exception not be lost with it.

    Python raises KeyboardInterrupt between any two instructions of the main thread. Of
    a callback of the garbage collector, and JAX has one, or of a finaliser it only
    prints the exception, and the program goes on as if nobody had pressed a key. Here
    the signal is given once more, a moment later.
    """
    sys.unraisablehook = _raise_again


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt | SystemExit):
        interrupted = issubclass(dropped.exc_type, KeyboardInterrupt)
        number = signal.SIGINT if interrupted else signal.SIGTERM
        main = threading.main_thread().ident
        again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, [main, number])
        again.daemon = True  # a program that has ended by itself needs none
        again.start()
    else:
        sys.__unraisablehook__(dropped)
