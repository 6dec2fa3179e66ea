"""Work in a process of its own, so that no two libraries share a GPU's memory."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

GRACE = 10  # seconds that a process which has answered may take to end


class ChildFailed(Exception):
    """Why there is no answer, in one line."""


def in_child(work: Callable[..., Any], *operands: Any, seconds: float) -> Any:
    """`work(*operands)` in a fresh process that is gone afterwards.

    Args:
      work: a function of a module; operands and result are pickled.
      seconds: after which the process is ended.

    Raises:
      ChildFailed: the work raised, the process died, or it took too long.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, work, operands))
    child.start()
    there.close()  # the child's end: with the child it closes, which ends a wait
    try:
        if not here.poll(seconds):
            raise ChildFailed(f"no answer within {seconds:.0f} s")
        answer, failure = here.recv()
        child.join(GRACE)
    except EOFError:
        child.join(GRACE)
        raise ChildFailed(f"its process died with code {child.exitcode}") from None
    finally:
        child.kill()
        child.join()
        here.close()
    if failure is not None:
        raise ChildFailed(failure)
    return answer


def _answer(pipe: Connection, work: Callable[..., Any], operands: Any) -> None:
    try:
        pipe.send((work(*operands), None))
    except Exception as failure:  # any library may fail in any way; others go on
        lines = str(failure).strip().splitlines() or [""]
        pipe.send((None, f"{type(failure).__name__}: {lines[0][:200]}"))
