"""Blocks of Pallas-Triton, whose sizes are powers of two, and what masks their rest."""

from jaxtyping import Array, Bool


def padded(size: int, least: int = 1) -> int:
    """The power of two that holds `size`, at least `least`."""
    return max(least, 1 << (size - 1).bit_length())


def joint_mask(
    rows: Bool[Array, " R"] | None, columns: Bool[Array, " C"] | None
) -> Bool[Array, "R C"] | None:
    """Joint mask of rows and columns, to be broadcast; None where nothing is masked."""
    if rows is None:
        return None if columns is None else columns[None, :]
    return rows[:, None] if columns is None else rows[:, None] & columns[None, :]
