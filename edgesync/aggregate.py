"""Readings summed up in windows of time before they travel.

    aggregator = EdgeAggregator(width_s=60, max_pending=100)
    aggregator.add_reading("temp", 22.5, time_ns)
    aggregator.flush()
    for bucket in aggregator.drain_pending():
        print(bucket.series, bucket.start_ns, bucket.window.mean)

Windows stand on a grid that begins in 1970, so those of several edges, and parts of one, fit
together: whoever merges them has what one pass over all readings would give (native/window.pyx).
No clock in here: times are arguments (I13).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from edgesync._native.window import Window

if TYPE_CHECKING:
    from array import array

SECOND_NS: Final = 1_000_000_000
SERIES_MAX: Final = 100_000
# A window whose series fell silent is closed so much after its end, by the wall clock.
IDLE_NS: Final = 5 * SECOND_NS
NEVER_NS: Final = 1 << 63


class Bucket(msgspec.Struct, frozen=True):
    """One window of one series, complete as far as is known.

    revision   1 when it closed; higher ones hold late readings too, and take the place of lower
    """

    series: str
    start_ns: int
    width_ns: int
    revision: int
    window: Window


class _Series:
    """Windows of one series: `newest_ns` is the highest time seen."""

    __slots__ = ("closed", "newest_ns", "open", "revisions")

    def __init__(self) -> None:
        self.open: dict[int, Window] = {}
        self.closed: dict[int, Window] = {}
        self.revisions: dict[int, int] = {}
        self.newest_ns: int | None = None


class EdgeAggregator:
    """See the module.

    width_s      of a window
    max_pending  closed buckets kept for `drain_pending`; beyond, the oldest goes and is counted
    lateness_s   a window closes so much after its end, by the times of its own series
    allowed_s    later than that a reading changes nothing any more; until then it makes a revision
    ahead_s      a reading further in the future than this is set aside: it may not close windows

    dropped, late, set_aside   how many buckets and readings that were
    """

    def __init__(
        self,
        width_s: float = 60.0,
        max_pending: int = 100,
        *,
        lateness_s: float = 2.0,
        allowed_s: float = 3600.0,
        ahead_s: float = 300.0,
    ) -> None:
        if width_s <= 0 or max_pending < 1 or lateness_s < 0 or allowed_s < 0:
            raise ValueError("a width above 0, room for a bucket, and no negative times")
        self._width = round(width_s * SECOND_NS)
        self._max_pending = max_pending
        self._lateness = round(lateness_s * SECOND_NS)
        self._allowed = round(allowed_s * SECOND_NS)
        self._ahead = round(ahead_s * SECOND_NS)
        self._series: dict[str, _Series] = {}
        self._pending: dict[tuple[str, int], Bucket] = {}
        self._idle_ns = NEVER_NS  # before this time no open window is closed for silence
        self.dropped = self.late = self.set_aside = 0

    def add_reading(
        self, series: str, value: float, time_ns: int, *, now_ns: int | None = None
    ) -> None:
        """Take one reading; `now_ns`, the wall clock, guards against times of the future."""
        if now_ns is not None and time_ns > now_ns + self._ahead:
            self.set_aside += 1
            return
        known = self._known(series)
        start = time_ns - time_ns % self._width
        newest = time_ns if known.newest_ns is None else max(known.newest_ns, time_ns)
        if start not in known.open and self._has_ended(start, known.newest_ns):
            self._take_late(series, known, start, value, time_ns)
            return
        if start not in known.open:
            known.open[start] = Window()
            self._idle_ns = min(self._idle_ns, self._silent_from(start))
        known.open[start].add(time_ns, value)
        if newest != known.newest_ns:
            known.newest_ns = newest
            self._close_ended(series, known)

    def add_many(
        self,
        series: str,
        times: "array[int]",
        values: "array[float]",
        *,
        now_ns: int | None = None,
    ) -> None:
        """Take readings in the order in which they came."""
        at, size = 0, len(times)
        while at < size:
            end = self._run_end(series, times, at, now_ns)
            if end == at:
                self.add_reading(series, values[at], times[at], now_ns=now_ns)
                at += 1
                continue
            # Readings in order, all of one window: as many at once, some nanoseconds each.
            known, start = self._series[series], times[at] - times[at] % self._width
            known.open[start].add_many(times[at:end], values[at:end])
            at = end

    def _run_end(self, series: str, times: "array[int]", at: int, now_ns: int | None) -> int:
        """Where readings that only go into the newest window end; `at` itself if none do."""
        known = self._series.get(series)
        if known is None or known.newest_ns is None:
            return at
        start = known.newest_ns - known.newest_ns % self._width
        stop = start + self._width if now_ns is None else min(start + self._width, now_ns)
        if start not in known.open:
            return at
        while at < len(times) and known.newest_ns <= times[at] < stop:
            if self._closes_by(known, times[at]):
                break
            known.newest_ns = times[at]
            at += 1
        return at

    def _closes_by(self, known: _Series, newest_ns: int) -> bool:
        """Whether an open window ends for good when the newest time is that."""
        return min(known.open) + self._width <= newest_ns - self._lateness

    def restore(self, series: str, start_ns: int, revision: int, window: Window) -> None:
        """Take up a window that was closed in an earlier life, so that late readings revise it."""
        known = self._known(series)
        known.closed[start_ns] = window
        known.revisions[start_ns] = revision
        end = start_ns + self._width + self._lateness
        known.newest_ns = max(known.newest_ns or end, end)

    def revise(self, series: str, start_ns: int, window: Window) -> None:
        """Put another window in place of one that was closed, as its next revision."""
        known = self._known(series)
        known.closed[start_ns] = window
        self._put(series, known, start_ns, window)

    def _known(self, series: str) -> _Series:
        known = self._series.get(series)
        if known is None:
            if len(self._series) >= SERIES_MAX:
                raise ValueError(f"readings of more than {SERIES_MAX} series in one aggregator")
            known = self._series[series] = _Series()
        return known

    def put_back(self, buckets: Iterable[Bucket]) -> None:
        """Take drained buckets again, which could not be stored."""
        newer, self._pending = self._pending, {}
        for bucket in buckets:
            self._pending[(bucket.series, bucket.start_ns)] = bucket
        for key, bucket in newer.items():
            self._pending.pop(key, None)
            self._pending[key] = bucket
        self._bound()

    def _has_ended(self, start: int, newest_ns: int | None) -> bool:
        return newest_ns is not None and start + self._width <= newest_ns - self._lateness

    def _take_late(
        self, series: str, known: _Series, start: int, value: float, time_ns: int
    ) -> None:
        assert known.newest_ns is not None
        if time_ns < known.newest_ns - self._allowed:
            self.late += 1
            return
        window = known.closed.setdefault(start, Window())
        window.add(time_ns, value)
        self._put(series, known, start, window)

    def _close_ended(self, series: str, known: _Series) -> None:
        assert known.newest_ns is not None
        for start in sorted(known.open):
            if self._has_ended(start, known.newest_ns):
                self._close(series, known, start)
        oldest = known.newest_ns - self._allowed - self._width
        # Nearly in order: one made anew by a late reading goes once it is first.
        while known.closed and (first := next(iter(known.closed))) < oldest:
            del known.closed[first], known.revisions[first]

    def _close(self, series: str, known: _Series, start: int) -> None:
        window = known.open.pop(start)
        before = known.closed.get(start)
        if before is not None:
            before.merge(window)
            window = before
        known.closed[start] = window
        self._put(series, known, start, window)

    def _put(self, series: str, known: _Series, start: int, window: Window) -> None:
        revision = known.revisions[start] = known.revisions.get(start, 0) + 1
        # A copy: later readings belong to later revisions.
        copied = Window.decode(window.encode())
        self._pending.pop((series, start), None)
        self._pending[(series, start)] = Bucket(series, start, self._width, revision, copied)
        self._bound()

    def _bound(self) -> None:
        while len(self._pending) > self._max_pending:
            del self._pending[next(iter(self._pending))]
            self.dropped += 1

    def flush(self, now_ns: int | None = None) -> int:
        """Close windows of series that fell silent by `now_ns`, or all; returns how many."""
        if now_ns is not None and now_ns < self._idle_ns:
            return 0
        closed, self._idle_ns = 0, NEVER_NS
        for series, known in self._series.items():
            for start in sorted(known.open):
                silent_ns = self._silent_from(start)
                if now_ns is None or silent_ns <= now_ns:
                    self._close(series, known, start)
                    closed += 1
                else:
                    self._idle_ns = min(self._idle_ns, silent_ns)
        return closed

    def _silent_from(self, start: int) -> int:
        """Return when a window that begins at `start` is closed although nothing more came."""
        return start + self._width + self._lateness + IDLE_NS

    def drain_pending(self) -> list[Bucket]:
        """Return the closed buckets, the oldest first, and forget them."""
        found = list(self._pending.values())
        self._pending = {}
        return found

    @property
    def pending(self) -> int:
        """Closed buckets that wait to be drained."""
        return len(self._pending)
