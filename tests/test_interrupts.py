"""A signal that arrives in a callback of the garbage collector ends the program."""

import signal
import subprocess
import sys

import pytest

# The first collection is that in which the signal comes: an exception raised there is
# printed and dropped by Python.
PROGRAM = """
import gc, os, signal, sys, time
from mirage_jax.interrupts import raise_dropped_interrupts

def callback(phase, info):
    gc.callbacks.clear()
    os.kill(os.getpid(), int(sys.argv[1]))
    for _ in range(1000):
        pass

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
raise_dropped_interrupts()
gc.callbacks.append(callback)
try:
    gc.collect()
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_of_the_collector_is_not_lost(number):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number))],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.stderr == ""
    assert result.returncode == 128 + number


def test_other_dropped_exceptions_are_still_reported():
    program = PROGRAM.replace(
        "os.kill(os.getpid(), int(sys.argv[1]))", "raise ValueError('of a callback')"
    ).replace("time.sleep(60)", "pass")
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0
    assert "ValueError: of a callback" in result.stderr
