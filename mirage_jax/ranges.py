"""Settings, held against what they may be."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mirage_jax.errors import MirageError


def check_names(
    settings: type, values: Mapping[str, Any], reader: str, example: str
) -> None:
    """Raises MirageError where a config's names are not a dataclass's fields.

    Args:
      settings: the dataclass.
      values: the config's, by name.
      reader: who takes such a config.
      example: a config that has all the names.
    """
    names = {field.name for field in fields(settings)}
    if wrong := sorted(names.symmetric_difference(values)):
        raise MirageError(
            f"this config is not one for {reader}: {', '.join(wrong)} unknown or "
            f"missing; compare {example}"
        )


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
