"""How many connections the API has, and how many of them may be taken by requests that wait."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgesync_transport import descriptors
from hubd.api.errors import ApiError

# Pages that are open (64 streams of them, and 256 of the API) and requests beside them. On a small
# limit of descriptors they leave the greater part to edges.
CONNECTIONS_MAX: Final = 1024
PART_OF_DESCRIPTORS: Final = 3 / 8


def connections_max() -> int:
    return min(CONNECTIONS_MAX, max(8, int(descriptors.limit() * PART_OF_DESCRIPTORS)))


class Waits:
    """Requests that wait for something to happen: so many that others are still answered.

    At most half of all connections wait, and half of those for one tenant, or operators (I7).
    """

    def __init__(self) -> None:
        self._waiting: Counter[str | None] = Counter()

    @property
    def count(self) -> int:
        """Return how many wait."""
        return self._waiting.total()

    @contextmanager
    def place(self, tenant: str | None, wait_s: float) -> Iterator[None]:
        """Keep a place for as long as the block takes, if it waits; raises ApiError for none."""
        if wait_s <= 0:
            yield
            return
        most = max(2, connections_max() // 2)
        if self.count >= most or self._waiting[tenant] >= most // 2:
            raise ApiError(
                503, f"{self._waiting[tenant]} requests wait here already", field="wait_s",
                remedy="ask again later, or without it",
            )  # fmt: skip
        self._waiting[tenant] += 1
        try:
            yield
        finally:
            self._waiting[tenant] -= 1
