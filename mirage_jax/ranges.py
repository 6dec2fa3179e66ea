"""Settings, held against what they may be."""

from collections.abc import Mapping
from typing import Any

from mirage_jax.errors import MirageError


def check_ranges(settings: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises MirageError where a named field is not from its first number to its last.

    Args:
      settings: has the fields.
      ranges: least and largest value, by the name of the field.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise MirageError(f"{name} {value} is out of range: take {low} to {high}")


def check_choices(settings: object, **choices: tuple[Any, ...]) -> None:
    """Raises MirageError where a named field is none of its choices."""
    for name, known in choices.items():
        if (value := getattr(settings, name)) not in known:
            raise MirageError(f"{name}={value!r}: choose one of {known}")
