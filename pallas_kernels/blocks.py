"""Blocks of Pallas-Triton, whose sizes are powers of two, and what masks their rest."""

from jaxtyping import Array, Bool

LEAST_PIECE = 128  # four numbers for each lane of a warp
MOST_PIECES = 8


def padded(size: int, least: int = 1) -> int:
    """The power of two that holds `size`, at least `least`."""
    return max(least, 1 << (size - 1).bit_length())


def pieces(size: int) -> tuple[int, int]:
    """Size and number of the blocks that a row of `size` numbers is cut into.

    As few as fill it exactly, so that nothing is masked and no lane idles: 1536 is
    three of 512. One block with a masked rest where they would be small or many.
    """
    piece = size & -size
    if piece >= LEAST_PIECE and size // piece <= MOST_PIECES:
        return piece, size // piece
    return padded(size), 1


def joint_mask(
    rows: Bool[Array, " R"] | None, columns: Bool[Array, " C"] | None
) -> Bool[Array, "R C"] | None:
    """Joint mask of rows and columns, to be broadcast; None where nothing is masked."""
    if rows is None:
        return None if columns is None else columns[None, :]
    return rows[:, None] if columns is None else rows[:, None] & columns[None, :]
