"""Aggregates of 1 minute and 1 hour, merged into what is there, whatever order data comes in.

They are rows only for series that have many points in one: of a point a minute, an aggregate of a
minute would be a copy five times its size. The rest is made of the points when it is asked for.

Only finite numbers count: one NaN ("not available") must not blank the hour it fell into. Booleans
count as 0 and 1, texts not at all.
"""

import functools
import math
import sys
from collections.abc import Iterable
from itertools import islice
from operator import le
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from edgesync._native import block
from hubd.db.dialect import insert, of_tuples
from hubd.state import tables
from hubd.state.pieces import Piece, Times

MINUTE_NS: Final = 60 * 10**9
HOUR_NS: Final = 60 * MINUTE_NS
ROWS_A_STATEMENT: Final = 4096
FLOAT_MAX: Final = sys.float_info.max


class Level(NamedTuple):
    """A width of aggregates. They are rows where at least `dense` points are in one."""

    number: int
    width_ns: int
    table: sa.Table
    dense: int


# A row takes some 90 bytes and, among those of other series, a leaf of the tree to itself.
HOURS: Final = Level(1, HOUR_NS, tables.rollup_1h, 600)
MINUTES: Final = Level(2, MINUTE_NS, tables.rollup_1m, 120)


def level_of(points: int, t_min: int, t_max: int) -> int:
    """Return up to which level the aggregates of points between two times become rows."""
    number = 0
    for level in (HOURS, MINUTES):
        buckets = t_max // level.width_ns - t_min // level.width_ns + 1
        if points < level.dense * buckets:
            break
        number = level.number
    return number


class Bucket(NamedTuple):
    ref: int
    start_ns: int
    points: int
    min: float
    max: float
    sum: float
    first: float
    last: float
    first_ns: int
    last_ns: int


def aggregate(ref: int, piece: Piece, width_ns: int) -> list[Bucket]:
    """The buckets of `width_ns` that the points of `piece` fall into, oldest first."""
    ready = _finite_by_time(piece)
    if not ready:
        return []
    times, values = ready
    buckets = []
    at = 0
    for start, points, low, high, total, first, last in block.rollup(times, values, width_ns):
        spans = (times[at], times[at + points - 1])
        buckets.append(Bucket(ref, start, points, low, high, bounded(total), first, last, *spans))
        at += points
    return buckets


class Buckets(dict[int, Bucket]):
    """Aggregates by start, of points that are merged in any order of their arrival."""

    def __init__(self, stored: Iterable[Bucket]) -> None:
        super().__init__((bucket.start_ns, bucket) for bucket in stored)
        # Of the points that first and last are of: the place of their piece in the series.
        self._places: dict[int, tuple[int, int]] = {}

    def merge(self, new: Bucket, n: int) -> None:
        """Merge the aggregate of points of a piece whose first is the series' `n`th."""
        old = self.get(new.start_ns)
        if old is None:
            self[new.start_ns] = new
            self._places[new.start_ns] = n, n
            return
        first_n, last_n = self._places.get(new.start_ns, (-1, -1))
        is_first = (new.first_ns, n) < (old.first_ns, first_n)
        is_last = (new.last_ns, n) > (old.last_ns, last_n)
        self._places[new.start_ns] = n if is_first else first_n, n if is_last else last_n
        self[new.start_ns] = Bucket(
            old.ref, old.start_ns, old.points + new.points, min(old.min, new.min),
            max(old.max, new.max), bounded(old.sum + new.sum),
            new.first if is_first else old.first, new.last if is_last else old.last,
            new.first_ns if is_first else old.first_ns, new.last_ns if is_last else old.last_ns,
        )  # fmt: skip


def bounded(total: float) -> float:
    """Return a sum without infinities: they would add up to no number."""
    return min(max(total, -FLOAT_MAX), FLOAT_MAX)


def merge(connection: sa.Connection, table: sa.Table, buckets: Iterable[Bucket]) -> None:
    """Merge `buckets` into `table`, some at a time: one takes a hundred times a packed point."""
    remaining = iter(buckets)
    while rows := list(islice(remaining, ROWS_A_STATEMENT)):
        connection.exec_driver_sql(_text(connection.dialect.name, table), rows)


def _finite_by_time(piece: Piece) -> "tuple[Times, Any] | None":
    """Times and values sorted by time, equal times by arrival, without NaN and infinities."""
    if isinstance(piece.values, list):
        return None
    times, values = piece.times, piece.values
    # A sum is finite unless a part is not (or it overflows: then the slow way is right as well).
    is_finite = values.typecode != "d" or math.isfinite(sum(values))
    if is_finite and all(map(le, times, islice(times, 1, None))):
        return times, values
    pairs = [pair for pair in zip(times, values, strict=True) if math.isfinite(pair[1])]
    pairs.sort(key=lambda pair: pair[0])  # stable: equal times stay in order of arrival
    if not pairs:
        return None
    sorted_times = times[:0]
    sorted_times.extend(time for time, _ in pairs)
    sorted_values: Any = values[:0]
    sorted_values.extend(value for _, value in pairs)
    return sorted_times, sorted_values


_MAX: Final = sa.cast(sa.literal_column(repr(FLOAT_MAX)), sa.Float)
_ZERO: Final = sa.literal_column("0.0", sa.Float)


@functools.cache
def _text(dialect: str, table: sa.Table) -> str:
    """The statement for tuples in the order of the columns: a third of the time a row takes."""
    return of_tuples(_upsert(table), Bucket._fields, dialect)


def _upsert(table: sa.Table) -> sa.Insert:
    """Merge a bucket into the row that may be there; each later arrival comes in later."""
    statement = insert(table)
    old, new = table.c, statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[old.ref, old.start_ns],
        set_={
            "points": old.points + new.points,
            "min": sa.case((new.min < old.min, new.min), else_=old.min),
            "max": sa.case((new.max > old.max, new.max), else_=old.max),
            "sum": sa.case(
                # As `bounded`, without a sum that is none: PostgreSQL refuses it.
                ((old.sum > _ZERO) & (new.sum > _MAX - old.sum), _MAX),
                ((old.sum < _ZERO) & (new.sum < -_MAX - old.sum), -_MAX),
                else_=old.sum + new.sum,
            ),
            "first": sa.case((new.first_ns < old.first_ns, new.first), else_=old.first),
            "last": sa.case((new.last_ns >= old.last_ns, new.last), else_=old.last),
            "first_ns": sa.case((new.first_ns < old.first_ns, new.first_ns), else_=old.first_ns),
            "last_ns": sa.case((new.last_ns >= old.last_ns, new.last_ns), else_=old.last_ns),
        },
    )
