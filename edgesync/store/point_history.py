"""Questions about the readings that are kept of a series."""

import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from edgesync._native.points import Recent
from edgesync._native.window import Window
from edgesync.store.point_rows import ASIDE, Kept, Point, PointRows, piece_key

if TYPE_CHECKING:
    from edgesync.store.pieces import Times, Values

MANY: Final = 1 << 62
# Of a reading in a row of its batch, on the disk.
RECENT_BYTES: Final = 24


class Batches:
    """Readings that are in rows `b`, those with numbers from `first` on, and in memory.

    under_way   writes that add to them
    """

    __slots__ = ("first", "recent", "under_way")

    def __init__(self, first: int) -> None:
        self.first, self.recent, self.under_way = first, Recent(), 0


class PointHistory:
    """What `PointStore` keeps, to be read. What is in rows of its batches is read from memory."""

    def __init__(self, rows: PointRows, *, age_ns: int, wall_ns: Callable[[], int]) -> None:
        self._rows, self._age_ns, self._wall_ns = rows, age_ns, wall_ns
        self._batches = [Batches(0)]
        self._flushing: Batches | None = None

    def aggregate(self, kept: Kept) -> Window:
        """Return what all readings the series ever had add up to; the same after a restart."""
        moving = kept.moving
        if moving is None or moving.sealing is None:
            window = Window.decode(self._rows.sum_of(kept).window)
        else:
            window = Window.decode(moving.sealing.before.window)
        for times, values in reversed(list(self._raw_columns(kept))):
            window.add_many(times, values)
        return window

    def newest(self, kept: Kept) -> Point | None:
        """Return the reading of the latest time; of several the one that came last."""
        newest = kept.newest
        for batches in self._batches:
            found = batches.recent.newest(kept.place)
            if found is not None and (newest is None or found[0] >= newest.time_ns):
                newest = Point(*found)
        return newest

    def readings(
        self,
        kept: Kept,
        from_ns: int = -(1 << 63),
        to_ns: int = (1 << 63) - 1,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> list[Point]:
        """Return those kept from `from_ns` to `to_ns`, by time; of equal times as they came.

        limit   the first so many; with `reverse`, from the other end
        """
        from_ns = max(from_ns, self._oldest_ns(kept))
        columns = list(self.columns(kept, from_ns, to_ns, limit=kept.keep))
        found = [
            Point(time_ns, value)
            for times, values in reversed(columns)
            for time_ns, value in zip(times, values, strict=True)
            if from_ns <= time_ns <= to_ns
        ]
        found.sort(key=_time_of)
        if reverse:
            found.reverse()
        return found if limit is None else found[:limit]

    def columns(
        self, kept: Kept, from_ns: int, to_ns: int, *, limit: int = MANY
    ) -> Iterator[tuple["Times[int]", "Values[float]"]]:
        """Yield the newest `limit` readings, the last to come first.

        Rows wholly outside of from_ns <= time <= to_ns are left out, others come whole.
        """
        left = limit
        for times, values in self._raw_columns(kept):
            skip = max(len(times) - left, 0)
            yield times[skip:], values[skip:]
            left -= len(times) - skip
        # Blocks that are being made come behind those: they take the places of raw readings.
        for key, row in self._rows.scan_back(piece_key(kept, 0), piece_key(kept, kept.raw_from)):
            if left <= 0:
                return
            _, points, earliest, latest = self._rows.head(key, row)
            if earliest <= to_ns and latest >= from_ns:
                times, values = self._rows.unpacked(key, row)
                skip = max(points - left, 0)
                yield times[skip:], values[skip:]
            left -= points

    def _raw_columns(self, kept: Kept) -> Iterator[tuple["Times[int]", "Values[float]"]]:
        """Readings that are in no block yet, the last to come first."""
        times, values = self._recent_columns(kept)
        if times:
            yield times, values
        moving, stop = kept.moving, kept.next
        if moving is not None:
            yield moving.part.times, moving.part.values
            stop = moving.n
            if moving.sealing is not None:
                yield moving.sealing.times, moving.sealing.values
                return
        for key, row in self._rows.scan_back(piece_key(kept, kept.raw_from), piece_key(kept, stop)):
            yield self._rows.unpacked(key, row)

    def _recent_columns(self, kept: Kept) -> tuple["Times[int]", "Values[float]"]:
        """Readings that are in rows of their batches, in order."""
        times: Times[int] = array.array("q")
        values: Values[float] = array.array("d")
        for batches in self._batches:
            if batches is not self._flushing:
                more_times, more_values = batches.recent.columns(kept.place)
                times += more_times
                values += more_values
        return times, values

    def earliest_ns(self, kept: Kept) -> tuple[int | None, bool]:
        """Return the earliest time on disk, None without any, and whether older ones have gone."""
        found = [min(times) for times, _ in self._raw_columns(kept) if times]
        for key, row in self._rows.scan_back(piece_key(kept, 0), piece_key(kept, kept.raw_from)):
            _, points, earliest, _ = self._rows.head(key, row)
            if points:
                found.append(earliest)
        moving = kept.moving
        sealing = None if moving is None else moving.sealing
        before = self._rows.sum_of(kept) if sealing is None else sealing.before
        has_dropped = before.points > sum(one.points for one in kept.blocks)
        return (min(found) if found else None), has_dropped

    def stored_bytes(self, kept: Kept) -> int:
        """Return the bytes of the readings on disk."""
        recent = len(self._recent_columns(kept)[0])
        return RECENT_BYTES * recent + sum(
            len(value) for _, value in self._rows.scan(b"p" + kept.row)
        )

    def chunks(self, kept: Kept) -> int:
        """Return of how many blocks its readings are, counting those that are in none as one."""
        return len(kept.blocks) + any(len(times) > 0 for times, _ in self._raw_columns(kept))

    def set_aside(self, kept: Kept) -> list[Point]:
        """Return the readings whose time could not be, as far as they are kept."""
        start = b"q" + kept.row
        found: list[Point] = []
        for key, value in self._rows.scan(start):
            times: Times[int] = array.array("q")
            values: Values[float] = array.array("d")
            count = self._rows.aside(key, value)[1]
            if len(value) != ASIDE.size + 16 * count:
                continue
            times.frombytes(value[ASIDE.size : ASIDE.size + 8 * count])
            values.frombytes(value[ASIDE.size + 8 * count :])
            found += map(Point, times, values)
        return found

    def _oldest_ns(self, kept: Kept) -> int:
        age_ns = kept.age_ns or self._age_ns
        return self._wall_ns() - age_ns if age_ns else -(1 << 63)


def _time_of(point: Point) -> int:
    return point.time_ns
