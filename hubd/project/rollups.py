"""Aggregates of 1 minute and 1 hour, merged into what is there, whatever order data comes in.

Only finite numbers count: one NaN ("not available") must not blank the hour it fell into. Booleans
count as 0 and 1, texts not at all.
"""

import math
import sys
from collections.abc import Iterable
from itertools import islice
from operator import le
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from edgesync._native import block
from hubd.state import tables
from hubd.state.pieces import Piece, Times

MINUTE_NS: Final = 60 * 10**9
HOUR_NS: Final = 60 * MINUTE_NS
ROWS_A_STATEMENT: Final = 4096
FLOAT_MAX: Final = sys.float_info.max
WIDTHS: Final = ((tables.rollup_1m, MINUTE_NS), (tables.rollup_1h, HOUR_NS))


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
        total = min(max(total, -FLOAT_MAX), FLOAT_MAX)  # infinities would add up to no number
        buckets.append(Bucket(ref, start, points, low, high, total, first, last, *spans))
        at += points
    return buckets


def merge(connection: sa.Connection, table: sa.Table, buckets: Iterable[Bucket]) -> None:
    """Merge `buckets` into `table`, some at a time: one takes a hundred times a packed point."""
    remaining = iter(buckets)
    while rows := list(islice(remaining, ROWS_A_STATEMENT)):
        connection.exec_driver_sql(_UPSERTS[table.name], rows)


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
            "sum": old.sum + new.sum,
            "first": sa.case((new.first_ns < old.first_ns, new.first), else_=old.first),
            "last": sa.case((new.last_ns >= old.last_ns, new.last), else_=old.last),
            "first_ns": sa.case((new.first_ns < old.first_ns, new.first_ns), else_=old.first_ns),
            "last_ns": sa.case((new.last_ns >= old.last_ns, new.last_ns), else_=old.last_ns),
        },
    )


def _as_text(statement: sa.Insert) -> str:
    """The statement for tuples in the order of the columns: a third of the time a row takes."""
    compiled = statement.compile(dialect=sqlite.dialect())
    assert compiled.positiontup == list(Bucket._fields)
    return str(compiled)


_UPSERTS: Final = {table.name: _as_text(_upsert(table)) for table, _ in WIDTHS}
