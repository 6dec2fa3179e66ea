"""Who sits where: a fixed number of streams on the device, one client each."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Seats(Generic[T]):
    """Clients by seat. Not safe for threads by itself: the engine holds its lock."""

    def __init__(self, count: int):
        if count < 1:
            raise ValueError(f"there is at least one seat, got {count=}")
        self._by_seat: list[T | None] = [None] * count

    def __len__(self) -> int:
        return len(self._by_seat)

    def take(self, client: T) -> int | None:
        """Gives the first empty seat; None if there is none."""
        for seat, other in enumerate(self._by_seat):
            if other is None:
                self._by_seat[seat] = client
                return seat
        return None

    def free(self, client: T) -> bool:
        """Empties the client's seat; False if it has none (any more)."""
        for seat, other in enumerate(self._by_seat):
            if other is client:
                self._by_seat[seat] = None
                return True
        return False

    def taken(self) -> list[tuple[int, T]]:
        """(seat, client) of all that are taken."""
        return [(i, c) for i, c in enumerate(self._by_seat) if c is not None]
