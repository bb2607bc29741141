"""When what is fresh of an edge is written out: by age, by count, or because memory is short.

By age it is an hour by the log's own clock, and each edge has an hour of its own: so pages of
thousands of edges are a trickle, and a log that is read again gives the same pages. [sans-IO]
"""

import heapq
import zlib
from collections.abc import Collection, Iterator
from typing import Final

from hubd.state.fresh import EdgeFresh

AGE_NS: Final = 3600 * 10**9
# An edge is written out with so many points a series, within these bounds.
SERIES_POINTS: Final = 1024
FULL_POINTS_MIN: Final = 8192
FULL_POINTS_MAX: Final = 1 << 20
# Points of edges that are written out in one transaction.
STEP_POINTS: Final = 1 << 20
POINT_BYTES: Final = 16
MEMORY_BYTES: Final = 256 << 20


def due_at_ns(edge: str, since_ns: int) -> int:
    """Return when the hour of `edge` ends that `since_ns` lies in."""
    phase_ns = zlib.crc32(edge.encode()) * AGE_NS >> 32
    return ((since_ns + phase_ns) // AGE_NS + 1) * AGE_NS - phase_ns


class Schedule:
    """Edges with what they have in memory."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self.memory_bytes = memory_bytes
        self.nbytes = 0
        self._edges: dict[str, EdgeFresh] = {}
        self._nbytes: dict[str, int] = {}
        self._since: dict[str, int] = {}  # in the order of the log: the oldest first
        self._by_age: list[tuple[int, str, int]] = []
        self._full: dict[str, None] = {}

    def note(self, edge: str, fresh: EdgeFresh) -> None:
        """Take in that `fresh` of an edge was made, has grown, or was replaced by an empty one."""
        self._edges[edge] = fresh
        self.nbytes += fresh.table.nbytes - self._nbytes.get(edge, 0)
        self._nbytes[edge] = fresh.table.nbytes
        if not fresh.since:
            self._since.pop(edge, None)
            self._full.pop(edge, None)
            return
        if edge not in self._since:
            self._since[edge] = fresh.since
            heapq.heappush(self._by_age, (due_at_ns(edge, fresh.since_ns), edge, fresh.since))
        wanted = SERIES_POINTS * len(fresh.table)
        if fresh.table.points >= min(FULL_POINTS_MAX, max(FULL_POINTS_MIN, wanted)):
            self._full[edge] = None

    def forget(self, edge: str) -> None:
        """Take in that an edge has nothing in memory any more."""
        self._edges.pop(edge, None)
        self.nbytes -= self._nbytes.pop(edge, 0)
        self._since.pop(edge, None)
        self._full.pop(edge, None)

    @property
    def is_short(self) -> bool:
        return self.nbytes > self.memory_bytes

    def safe(self, position: int, without: Collection[str] = ()) -> int:
        """Return up to where the log, read up to `position`, is stored once `without` are."""
        for edge, since in self._since.items():
            if edge not in without:
                return min(since - 1, position)
        return position

    def next_at_ns(self) -> int | None:
        """Return when the next edge is due by its age."""
        while self._by_age and self._since.get(self._by_age[0][1]) != self._by_age[0][2]:
            heapq.heappop(self._by_age)
        return self._by_age[0][0] if self._by_age else None

    def due(self, now_ns: int, upto: int = 0) -> list[str]:
        """Return edges to be written out now, as many as one transaction takes.

        upto   also those that have something in memory from up to there in the log
        """
        due = dict.fromkeys(self._up_to(upto)) | self._full
        if (at_ns := self.next_at_ns()) is not None and at_ns <= now_ns:
            old = [one for one in self._by_age if one[0] <= now_ns]
            due |= {edge: None for _, edge, since in sorted(old) if self._since.get(edge) == since}
        if self.is_short:
            due |= dict.fromkeys(self._largest())
        step: list[str] = []
        points = 0
        for edge in due:
            points += self._edges[edge].table.points
            if step and points > STEP_POINTS:
                break
            step.append(edge)
        return step

    def _up_to(self, position: int) -> Iterator[str]:
        for edge, since in self._since.items():
            if since > position:
                return
            yield edge

    def _largest(self) -> list[str]:
        """Return edges without which memory would be down to three quarters, the largest first."""
        excess = self.nbytes - self.memory_bytes * 3 // 4
        found = []
        for edge in sorted(self._since, key=lambda one: -self._edges[one].table.points):
            if excess <= 0:
                break
            found.append(edge)
            excess -= self._edges[edge].table.points * POINT_BYTES
        return found

    def idle(self) -> list[str]:
        """Return edges to be forgotten, for memory is short: all that is theirs is stored."""
        if not self.is_short:
            return []
        return [edge for edge in self._edges if edge not in self._since]
