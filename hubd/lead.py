"""How far the log is ahead of the newest readings that are shown.                      [sans-IO]

The log takes entries in order and so does their projection: whatever one edge sends at once, all
others wait behind it. So the log is let no further ahead than what is projected in a fraction of a
second; beyond that large batches wait at the link, where each edge waits for itself alone, and
small ones pass. Nobody waits for a projection that does not come: acks need the log alone.
"""

from collections import Counter, deque
from typing import Final

# Readings; the projector takes a million a second and more.
LEAD_MAX: Final = 1 << 19
# A batch of so many passes all the same, one at a time of each edge.
SMALL: Final = 2048


class Lead:
    """See the module; `total` counts readings in the log that are not projected yet."""

    def __init__(self, lead_max: int = LEAD_MAX) -> None:
        self._max = lead_max
        self._ahead: deque[tuple[int, str, int]] = deque()
        self._edges: Counter[str] = Counter()
        self._resumes_at: int | None = None
        self.total = 0

    def has_room(self, edge: str, readings: int) -> bool:
        """Return whether a batch may go into the log now."""
        if self._resumes_at is not None or not readings or self.total < self._max:
            return True
        return readings <= SMALL and not self._edges[edge]

    def add(self, position: int, edge: str, readings: int) -> None:
        """Take in that a batch has come into the log."""
        if self._resumes_at is not None:
            self._resumes_at = max(self._resumes_at, position)
        elif readings:
            self._ahead.append((position, edge, readings))
            self._edges[edge] += readings
            self.total += readings

    def reached(self, position: int) -> None:
        """Take in that all up to `position` is projected."""
        if self._resumes_at is not None and position >= self._resumes_at:
            self._resumes_at = None
        while self._ahead and self._ahead[0][0] <= position:
            _, edge, readings = self._ahead.popleft()
            self.total -= readings
            self._edges[edge] -= readings
            if not self._edges[edge]:
                del self._edges[edge]

    def give_up(self) -> None:
        """Wait no more until the projection has come to what is in the log by then."""
        if self._ahead:
            self._resumes_at = self._ahead[-1][0]
        self._ahead.clear()
        self._edges.clear()
        self.total = 0
