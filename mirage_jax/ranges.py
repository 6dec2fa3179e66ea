"""Numbers of settings, held against what they may be."""

from collections.abc import Mapping

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
