"""The lead of the log over its projection, and its limit.                              [sans-IO]

The log takes entries in order and so does their projection: whatever one edge sends at once, all
others wait behind it. So the log is let no further ahead than what is projected in a quarter of a
second, as fast as that goes here; beyond that large batches wait at the link, where each lane of an
edge waits for itself alone, and small ones pass. Nobody waits for a projection that does not come:
acks need the log alone.

Work is counted in readings; another record is as much as so many of them.
"""

from collections import Counter, deque
from typing import Final

AHEAD_S: Final = 0.25
# Whatever was measured; of a machine that does little, and of one that does much.
LEAD_MIN: Final = 1 << 15
LEAD_MAX: Final = 1 << 20
# So much of each stream passes all the same.
SMALL: Final = 2048
# How much the newest measure counts.
NEWEST: Final = 0.2

# A lane of an edge.
Stream = tuple[str, int]


class Lead:
    """See the module.

    total   the work in the log that is not projected yet
    most    how much may be before batches wait
    done    the work that was projected since it came, ever
    """

    def __init__(self, most: int = LEAD_MAX // 4) -> None:
        self.total = self.done = 0
        self.most = most
        self._ahead: deque[tuple[int, Stream, int]] = deque()
        self._streams: Counter[Stream] = Counter()
        self._resumes_at: int | None = None
        self._since = 0.0  # work has been waiting since then, without a break

    def has_room(self, stream: Stream, work: int) -> bool:
        """Return whether a batch may go into the log now."""
        if self._resumes_at is not None or not work or self.total < self.most:
            return True
        return self._streams[stream] + work <= SMALL

    def add(self, position: int, stream: Stream, work: int, now: float) -> None:
        """Take in that a batch has come into the log."""
        if self._resumes_at is not None:
            self._resumes_at = max(self._resumes_at, position)
        elif work:
            if not self._ahead:
                self._since = now
            self._ahead.append((position, stream, work))
            self._streams[stream] += work
            self.total += work

    def reached(self, position: int, now: float) -> None:
        """Take in that all up to `position` is projected."""
        if self._resumes_at is not None and position >= self._resumes_at:
            self._resumes_at = None
        done = 0
        while self._ahead and self._ahead[0][0] <= position:
            _, stream, work = self._ahead.popleft()
            done += work
            self._streams[stream] -= work
            if not self._streams[stream]:
                del self._streams[stream]
        if done:
            self.total -= done
            self.done += done
            self._measure(done, now - self._since)
            self._since = now

    def _measure(self, done: int, seconds: float) -> None:
        """Learn from what takes long enough to tell how fast it is."""
        if done >= LEAD_MIN and seconds > 0:
            measured = AHEAD_S * done / seconds
            wanted = self.most + NEWEST * (measured - self.most)
            self.most = round(min(LEAD_MAX, max(LEAD_MIN, wanted)))

    def give_up(self) -> None:
        """Wait no more until the projection has come to what is in the log by then."""
        if self._ahead:
            self._resumes_at = self._ahead[-1][0]
        self._ahead.clear()
        self._streams.clear()
        self.total = 0
