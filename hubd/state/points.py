"""Reading the points of a series: a page of raw ones, a page of buckets, or all of them.

A page is ordered by time, equal times by arrival, and goes on after a mark (time_ns, n) where n is
the point's place in its series. What arrives later with an earlier time is not in pages already
handed out; nothing is ever handed out twice.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import sqlalchemy as sa

from edgesync.model import Value, ValueType
from hubd.state import tables
from hubd.state.pieces import Piece, load

NOWHERE: Final = (-(1 << 63), -1)
Mark = tuple[int, int]


class Point(NamedTuple):
    time_ns: int
    n: int
    value: Value


def pieces_of(connection: sa.Connection, ref: int) -> Iterator[tuple[int, Piece]]:
    """Yield every piece of a series with its place, in the order of arrival."""
    table = tables.history
    rows = connection.execute(sa.select(table).where(table.c.ref == ref).order_by(table.c.n))
    for row in rows:
        yield row.n, load(row.vtype, row.size, row.sealed == 1, row.data)


def all_points(connection: sa.Connection, ref: int) -> Iterator[Point]:
    """Yield every point of a series in the order of arrival."""
    for start, piece in pieces_of(connection, ref):
        yield from _points(start, piece)


def page(
    connection: sa.Connection, ref: int, from_ns: int, to_ns: int, after: Mark, limit: int
) -> list[Point]:
    """Up to `limit` points with from_ns <= time < to_ns that come after the mark."""
    table = tables.history
    rows = connection.execute(
        sa.select(table)
        .where(
            table.c.ref == ref,
            table.c.t_min < to_ns,
            table.c.t_max >= max(from_ns, after[0]),
        )
        .order_by(table.c.t_min, table.c.n)
    )
    # The `limit` earliest so far, as a heap whose top is the latest of them (hence the minus).
    found: list[tuple[int, int, Value]] = []
    for row in rows:
        # Pieces come by their earliest time: once enough points are earlier than all of this
        # piece, those that follow cannot get onto the page.
        if len(found) >= limit and -found[0][0] < row.t_min:
            break
        for point in _points(row.n, load(row.vtype, row.size, row.sealed == 1, row.data)):
            if from_ns <= point.time_ns < to_ns and point[:2] > after:
                put = heapq.heappush if len(found) < limit else heapq.heappushpop
                put(found, (-point.time_ns, -point.n, point.value))
    found.sort(key=lambda item: item[:2], reverse=True)
    return [Point(-time_ns, -n, value) for time_ns, n, value in found]


def has_more_than(
    connection: sa.Connection, ref: int, from_ns: int, to_ns: int, limit: int
) -> bool:
    """Whether more than `limit` points lie there."""
    table = tables.history
    inside = connection.scalar(
        sa.select(sa.func.sum(table.c.size)).where(
            table.c.ref == ref, table.c.t_min >= from_ns, table.c.t_max < to_ns
        )
    )
    if (inside or 0) > limit:
        return True
    # Pieces at the margins are counted by looking into them.
    return len(page(connection, ref, from_ns, to_ns, NOWHERE, limit + 1)) > limit


def bucket_page(
    connection: sa.Connection,
    table: sa.Table,
    ref: int,
    from_ns: int,
    to_ns: int,
    after_ns: int,
    limit: int,
) -> list[sa.Row[tuple[int, ...]]]:
    """Up to `limit` rows of a rollup table with from_ns <= start < to_ns and start > after_ns."""
    columns = table.c
    return list(
        connection.execute(
            sa.select(table)
            .where(
                columns.ref == ref,
                columns.start_ns >= from_ns,
                columns.start_ns < to_ns,
                columns.start_ns > after_ns,
            )
            .order_by(columns.start_ns)
            .limit(limit)
        )
    )


def _points(start: int, piece: Piece) -> Iterator[Point]:
    is_bool = piece.vtype == ValueType.BOOL
    values: Iterable[Value] = piece.values
    for i, (time_ns, value) in enumerate(zip(piece.times, values, strict=True)):
        yield Point(time_ns, start + i, bool(value) if is_bool else value)
