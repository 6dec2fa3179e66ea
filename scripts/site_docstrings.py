"""A griffe extension: the reference shows `height, width: ...` as two entries.

Our docstrings describe what belongs together in one line; griffe knows one name a line.
"""

import re
from typing import Any

import griffe

# Names, their common text, and the deeper lines that go on with it.
_SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)$", re.MULTILINE)


def one_name_a_line(docstring: str) -> str:
    """Repeats the text of an entry that has several names for each of them."""

    def repeated(entry: re.Match[str]) -> str:
        indent, names, text = entry.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))

    return _SHARED.sub(repeated, docstring)


class OneNameALine(griffe.Extension):
    """Does so for every docstring, before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each object that was loaded."""
        if obj.docstring is not None:
            obj.docstring.value = one_name_a_line(obj.docstring.value)
