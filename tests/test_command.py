"""How scripts end."""

import pytest
from absl import app

from experiments.command import command
from mirage_jax.errors import MirageError


def refuse():
    raise MirageError("no data in x: give another folder")


def test_a_script_that_worked_returns():
    assert command("script", lambda: None)(["script"]) is None


@pytest.mark.parametrize(
    "run, code",
    [(refuse, "script: no data in x: give another folder"), (lambda: True, 1)],
)
def test_failures_end_with_one_line_or_a_code(run, code):
    with pytest.raises(SystemExit) as left:
        command("script", run)(["script"])
    assert left.value.code == code


def test_arguments_that_are_no_flags_are_refused():
    with pytest.raises(app.UsageError, match="sepia"):
        command("script", refuse)(["script", "sepia"])


def test_operands_come_all_or_not_at_all():
    got = []
    main = command("script", lambda *given: got.append(given), operands=2)
    main(["script"])
    main(["script", "a", "b"])
    assert got == [(), ("a", "b")]
    for wrong in (["a"], ["a", "b", "c"]):
        with pytest.raises(app.UsageError, match="unknown arguments: a"):
            main(["script", *wrong])


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command("script", lambda: 1 / 0)(["script"])
