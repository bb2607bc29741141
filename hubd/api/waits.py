"""Requests that wait for something to happen: so many at a time that others are still answered.

Each has a connection while it waits, and there are only so many of those (`server.py`).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hubd.api.errors import ApiError
from hubd.api.server import connections_max


class Waits:
    """At most half of all connections wait, and half of those for one tenant, or operators (I7)."""

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
