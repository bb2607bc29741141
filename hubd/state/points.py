"""Reading the points of a series: a page of raw ones, a page of buckets, or all of them.

Points lie in rows of `page`, the newest ones in memory; a connection sees both of one moment. A
page of an answer is ordered by time, equal times by arrival, and goes on after a mark (time_ns, n)
where n is the point's place in its series. What arrives later with an earlier time is not in pages
already handed out; nothing is ever handed out twice.
"""

import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from edgesync.model import Value, ValueType
from hubd.state import pages, tables
from hubd.state.fresh import fresh_of
from hubd.state.pages import Page
from hubd.state.pieces import Piece
from hubd.state.rollups import Bucket, Buckets, Level, aggregate

NOWHERE: Final = (-(1 << 63), -1)
Mark = tuple[int, int]

HOUR_NS: Final = 3600 * 10**9
# Pages by t_max - t_min: less than so much, the last ones whatever it is. A page of the first class
# that reaches into a range begins at most that long before it, so an index over t_min finds it.
SPANS_NS: Final = (2 * HOUR_NS, 48 * HOUR_NS, 64 * 24 * HOUR_NS)
# Fresh points are looked at in chunks, each with its earliest time, as pages are.
CHUNK_POINTS: Final = 1024
NEVER: Final = (1 << 63) - 1

# Made once: a question about a month reads thirty pages.
_DATA: Final = sa.select(tables.page.c.data).where(tables.page.c.id == sa.bindparam("its_id"))


class Point(NamedTuple):
    time_ns: int
    n: int
    value: Value


class Chunk(NamedTuple):
    """Some points of a series, none earlier than `t_min`. Of a page, they are read when needed.

    level   which of their aggregates are stored as rows
    """

    t_min: int
    level: int
    page_id: int | None
    n: int = 0
    piece: Piece | None = None


def span_of(t_min: int, t_max: int) -> int:
    """Return the class of a page whose times are between these two."""
    for span, width_ns in enumerate(SPANS_NS):
        if t_max - t_min < width_ns:
            return span
    return len(SPANS_NS)


def page_row(edge: str, level: int, page: Page) -> dict[str, Any]:
    """Return the row of `page` that holds a page of an edge."""
    span = span_of(page.t_min, page.t_max)
    return {"edge": edge, "span": span, "level": level, **page._asdict()}


def pieces_of(connection: sa.Connection, ref: int) -> Iterator[tuple[int, Piece]]:
    """Yield every piece of a series with its place, in the order of arrival."""
    found = _name_of(connection, ref)
    if found is None:
        return
    edge, series = found
    table = tables.page.c
    question = sa.select(table.id, table.data).where(
        table.edge == edge, table.ref_first <= ref, table.ref_last >= ref
    )
    places = sorted(
        (run.n, page_id)
        for page_id, data in connection.execute(question)
        for run in pages.find(data, ref)
    )
    for page_id, group in itertools.groupby(places, key=lambda place: place[1]):
        wanted = {n for n, _ in group}
        data = connection.scalar(_DATA, {"its_id": page_id})
        for run in pages.find(data or b"", ref):
            if run.n in wanted:
                yield run.n, run.piece
    yield from _fresh_runs(connection, edge, series)


def all_points(connection: sa.Connection, ref: int) -> Iterator[Point]:
    """Yield every point of a series in the order of arrival."""
    for start, piece in pieces_of(connection, ref):
        yield from _points(start, piece)


def page(
    connection: sa.Connection, ref: int, from_ns: int, to_ns: int, after: Mark, limit: int
) -> list[Point]:
    """Up to `limit` points with from_ns <= time < to_ns that come after the mark."""
    # The `limit` earliest so far, as a heap whose top is the latest of them (hence the minus).
    found: list[tuple[int, int, Value]] = []
    for chunk in _chunks(connection, ref, max(from_ns, after[0]), to_ns):
        # Chunks come by their earliest time: once enough points are earlier than all of this
        # chunk, those that follow cannot get onto the page.
        if len(found) >= limit and -found[0][0] < chunk.t_min:
            break
        for start, piece in _load(connection, ref, chunk):
            if max(piece.times) < max(from_ns, after[0]) or (
                len(found) >= limit and -found[0][0] < min(piece.times)
            ):
                continue
            for point in _points(start, piece):
                if from_ns <= point.time_ns < to_ns and point[:2] > after:
                    put = heapq.heappush if len(found) < limit else heapq.heappushpop
                    put(found, (-point.time_ns, -point.n, point.value))
    found.sort(key=lambda item: item[:2], reverse=True)
    return [Point(-time_ns, -n, value) for time_ns, n, value in found]


def has_more_than(
    connection: sa.Connection, ref: int, from_ns: int, to_ns: int, limit: int
) -> bool:
    """Whether more than `limit` points lie there."""
    count = 0
    for chunk in _chunks(connection, ref, from_ns, to_ns):
        for _, piece in _load(connection, ref, chunk):
            if chunk.t_min >= from_ns and max(piece.times) < to_ns:
                count += len(piece.times)
            else:
                count += sum(from_ns <= time_ns < to_ns for time_ns in piece.times)
        if count > limit:
            return True
    return False


def bucket_page(
    connection: sa.Connection,
    level: Level,
    ref: int,
    from_ns: int,
    to_ns: int,
    after_ns: int,
    limit: int,
) -> list[Bucket]:
    """Up to `limit` aggregates of a level with from_ns <= start < to_ns and start > after_ns.

    Those that are stored, merged with those made here of points whose aggregates are not.
    """
    width_ns = level.width_ns
    begin = max(from_ns, after_ns + 1)
    begin += -begin % width_ns  # the first start that may be in the answer
    if begin >= to_ns:
        return []
    found = Buckets(_stored(connection, level, ref, begin, to_ns, limit))
    end_ns = min(to_ns - 1 - (to_ns - 1) % width_ns + width_ns, NEVER)
    starts = sorted(found)
    for chunk in _chunks(connection, ref, begin, end_ns):
        if len(starts) >= limit and starts[limit - 1] + width_ns <= chunk.t_min:
            break
        if chunk.level >= level.number:
            continue
        before = len(found)
        for n, piece in _load(connection, ref, chunk):
            for bucket in aggregate(ref, piece, width_ns):
                if begin <= bucket.start_ns < to_ns:
                    found.merge(bucket, n)
        if len(found) != before:
            starts = sorted(found)
    return [found[start] for start in starts[:limit]]


def _stored(
    connection: sa.Connection, level: Level, ref: int, begin: int, to_ns: int, limit: int
) -> Iterator[Bucket]:
    columns = level.table.c
    question = (
        sa.select(level.table)
        .where(columns.ref == ref, columns.start_ns >= begin, columns.start_ns < to_ns)
        .order_by(columns.start_ns)
        .limit(limit)
    )
    for row in connection.execute(question):
        yield Bucket(*row)


def _name_of(connection: sa.Connection, ref: int) -> tuple[str, int] | None:
    table = tables.series.c
    row = connection.execute(sa.select(table.edge, table.series).where(table.ref == ref)).first()
    return None if row is None else (row.edge, tables.unsigned(row.series))


def pieces_at(
    connection: sa.Connection, edge: str, wanted: Mapping[int, Collection[int]]
) -> Iterator[tuple[int, Piece]]:
    """Yield the stored pieces of series that may have points at the times `wanted`, by number.

    Each page is read once, whatever of it is wanted; what is in memory is left out.
    """
    ends = {ref: (min(times), max(times)) for ref, times in wanted.items() if times}
    if not ends:
        return
    refs = sorted(ends)
    from_ns = min(first_ns for first_ns, _ in ends.values())
    to_ns = min(max(last_ns for _, last_ns in ends.values()) + 1, NEVER)
    found = connection.execute(_pages_between(edge, from_ns, to_ns, refs[0], refs[-1])).all()
    for row in found:
        data = connection.scalar(_DATA, {"its_id": row.id}) or b""
        for ref in refs[bisect_left(refs, row.ref_first) : bisect_right(refs, row.ref_last)]:
            first_ns, last_ns = ends[ref]
            if row.t_min <= last_ns and row.t_max >= first_ns:
                for run in pages.find(data, ref):
                    yield ref, run.piece


def _pages_between(
    edge: str, from_ns: int, to_ns: int, ref_first: int, ref_last: int
) -> sa.CompoundSelect[Any]:
    """Ask for the pages of such series that may have points with from_ns <= time < to_ns."""
    table = tables.page.c
    begins = [max(from_ns - width_ns, NOWHERE[0]) for width_ns in SPANS_NS]
    columns = (
        table.t_min, table.t_max, table.level, table.id, table.ref_first, table.ref_last,
    )  # fmt: skip
    return sa.union_all(*(
        sa.select(*columns).where(
            table.edge == edge, table.span == span, table.t_min >= begin, table.t_min < to_ns,
            table.t_max >= from_ns, table.ref_first <= ref_last, table.ref_last >= ref_first,
        )
        for span, begin in enumerate([*begins, NOWHERE[0]])
    ))  # fmt: skip


def _chunks(connection: sa.Connection, ref: int, from_ns: int, to_ns: int) -> list[Chunk]:
    """Return all that may have points of the range, by their earliest time, then by arrival."""
    found = _name_of(connection, ref)
    if found is None:
        return []
    edge, series = found
    question = _pages_between(edge, from_ns, to_ns, ref, ref)
    chunks = [Chunk(row.t_min, row.level, row.id) for row in connection.execute(question)]
    chunks.sort(key=lambda chunk: (chunk.t_min, chunk.page_id))
    for n, piece in _fresh_runs(connection, edge, series):
        for at in range(0, len(piece.times), CHUNK_POINTS):
            times = piece.times[at : at + CHUNK_POINTS]
            t_min = min(times)
            if t_min < to_ns and max(times) >= from_ns:
                part = Piece(piece.vtype, times, piece.values[at : at + CHUNK_POINTS])
                chunks.append(Chunk(t_min, 0, None, n + at, part))
    chunks.sort(key=lambda chunk: chunk.t_min)  # stable: fresh ones came after pages
    return chunks


def _load(connection: sa.Connection, ref: int, chunk: Chunk) -> Iterator[tuple[int, Piece]]:
    if chunk.piece is not None:
        yield chunk.n, chunk.piece
        return
    data = connection.scalar(_DATA, {"its_id": chunk.page_id})
    for run in pages.find(data or b"", ref):
        yield run.n, run.piece


def _fresh_runs(connection: sa.Connection, edge: str, series: int) -> Iterator[tuple[int, Piece]]:
    fresh = fresh_of(connection).edges.get(edge)
    for n, vtype, times, values in fresh.table.runs(series) if fresh is not None else ():
        yield n, Piece(vtype, times, values)


def _points(start: int, piece: Piece) -> Iterator[Point]:
    is_bool = piece.vtype == ValueType.BOOL
    values: Iterable[Value] = piece.values
    for i, (time_ns, value) in enumerate(zip(piece.times, values, strict=True)):
        yield Point(time_ns, start + i, bool(value) if is_bool else value)
