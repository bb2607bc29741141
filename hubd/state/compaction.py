"""Compaction: the pages of an edge that lie in one day become pages with one run a series.

Pages are written an hour at a time (`hubd.project.schedule`), so a month of one series is in 720 of
them; compacted, in 30. What they hold stays the same, point by point, each with its place in its
series. A day of an edge is compacted once it is over, and each edge's day begins at another time,
so it is a trickle. Pages that came later stay as they are until they are several, too. So do pages
whose aggregates are rows: they are large already.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from hubd.db.dialect import insert_rows
from hubd.state import pages, tables
from hubd.state.database import Change
from hubd.state.pages import Builder, Run
from hubd.state.points import NOWHERE, page_row

DAY_NS: Final = 24 * 3600 * 10**9
# Points are in memory for an hour at most, and a poll may come an hour late.
GRACE_NS: Final = 2 * 3600 * 10**9
# Fewer pages are not worth it, nor when there are not far fewer afterwards.
PAGES_MIN: Final = 4
# Pages of one step: two megabytes at most, and a day of hours is in it.
PAGES_A_STEP: Final = 32
# Edges that are looked at in one transaction of a reader.
EDGES_A_LOOK: Final = 16
REF_MAX: Final = (1 << 63) - 1


class Swap(msgspec.Struct, frozen=True):
    """A step: rows of `page` in place of those with the ids `old`."""

    old: Sequence[int]
    new: Sequence[dict[str, Any]]

    def __call__(self, connection: sa.Connection) -> None:
        connection.execute(tables.page.delete().where(tables.page.c.id.in_(self.old)))
        insert_rows(connection, tables.page, self.new)


class Leftover(NamedTuple):
    """Small pages that stay small: how many, and the newest of them."""

    pages: int
    last_id: int


class Compaction:
    """One pass over all edges; `plan` until `is_over`.

    left   by edge what earlier passes have left; an edge with nothing more is passed over
    """

    def __init__(self, left: dict[str, Leftover], now_ns: int) -> None:
        self.is_over = False
        self._left = left
        self._now_ns = now_ns
        self._edges: Iterator[str] | None = None
        self._edge = ""
        self._end_ns = 0
        self._from_ns: int | None = None  # None: the edge is done
        self._after_ref = -1

    def plan(self, connection: sa.Connection) -> Change | None:
        """Return the next step, None if there is none among the edges looked at."""
        if self._edges is None:
            stored = tables.stored.c.edge
            self._edges = iter(connection.scalars(sa.select(stored).order_by(stored)).all())
        for _ in range(EDGES_A_LOOK):
            if self._from_ns is None and not self._begin_next(connection):
                break
            if (swap := self._plan_day(connection)) is not None:
                return swap
        return None

    def _begin_next(self, connection: sa.Connection) -> bool:
        """Go on to the next edge that has small pages of days that are over."""
        assert self._edges is not None
        for edge in self._edges:
            phase_ns = zlib.crc32(edge.encode()) * DAY_NS >> 32
            end_ns = (self._now_ns - GRACE_NS + phase_ns) // DAY_NS * DAY_NS - phase_ns
            self._edge, self._end_ns = edge, end_ns
            found = self._leftover(connection)
            if found.pages >= PAGES_MIN and found != self._left.get(edge):
                self._from_ns, self._after_ref = NOWHERE[0], -1
                return True
        self.is_over = True
        return False

    def _leftover(self, connection: sa.Connection) -> Leftover:
        table = tables.page.c
        counted = sa.select(sa.func.count(), sa.func.max(table.id)).where(self._is_small())
        pages_left, last_id = connection.execute(counted).one()
        return Leftover(pages_left, last_id or 0)

    def _is_small(self) -> sa.ColumnElement[bool]:
        table = tables.page.c
        return (
            (table.edge == self._edge)
            & (table.span == 0)
            & (table.t_min >= (self._from_ns or NOWHERE[0]))
            & (table.t_min < self._end_ns)
            & (table.level == 0)
        )

    def _plan_day(self, connection: sa.Connection) -> Swap | None:
        """Plan a step in the first day that may have some; moves on behind it."""
        table = tables.page.c
        first_ns = connection.scalar(sa.select(sa.func.min(table.t_min)).where(self._is_small()))
        if first_ns is None:
            self._from_ns = None
            self._left[self._edge] = self._leftover(connection)
            return None
        day_end_ns = self._end_ns - (self._end_ns - first_ns - 1) // DAY_NS * DAY_NS
        question = (
            sa.select(table.id, table.ref_first)
            .where(self._is_small(), table.t_min < day_end_ns, table.ref_first > self._after_ref)
            .order_by(table.ref_first, table.id)
            .limit(PAGES_A_STEP + 1)
        )
        found = connection.execute(question).all()
        ids, ref_max, self._after_ref = _choose([(row.id, row.ref_first) for row in found])
        if self._after_ref == REF_MAX:
            self._from_ns, self._after_ref = day_end_ns, -1
        if len(ids) < PAGES_MIN:
            return None
        new = list(_joined(connection, self._edge, ids, ref_max))
        return Swap(ids, new) if 4 * len(new) <= 3 * len(ids) else None


def _choose(found: Sequence[tuple[int, int]]) -> tuple[list[int], int, int]:
    """Decide which of the pages (id, ref_first) of a day are joined, in the order of their series.

    Returns their ids, up to which series, and after which one it goes on, REF_MAX for the day's
    end. What they have of further series is put back.
    """
    if len(found) <= PAGES_A_STEP:
        return [id_ for id_, _ in found], REF_MAX, REF_MAX
    beyond = found[-1][1]
    before = [id_ for id_, ref in found if ref < beyond]
    if before:
        return before, beyond - 1, beyond - 1
    return [id_ for id_, _ in found[:-1]], REF_MAX, beyond  # the rest of that many stays


def _joined(
    connection: sa.Connection, edge: str, ids: Sequence[int], ref_max: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of `page` that hold what these pages do, one run a series up to `ref_max`."""
    table = tables.page.c
    question = sa.select(table.data).where(table.id.in_(ids)).order_by(table.id)
    series: dict[int, list[Run]] = {}
    for data in connection.scalars(question):
        rest = Builder()
        for run in pages.runs(data):
            if run.ref <= ref_max:
                series.setdefault(run.ref, []).append(run)
            else:
                rest.add(run)
        if not rest.is_empty:
            yield page_row(edge, 0, rest.page())
    builder = Builder()
    for ref in sorted(series):
        for run in _contiguous(series.pop(ref)):
            if not builder.takes(ref):
                yield page_row(edge, 0, builder.page())
                builder = Builder()
            builder.add(run)
    if not builder.is_empty:
        yield page_row(edge, 0, builder.page())


def _contiguous(runs: list[Run]) -> Iterator[Run]:
    """Join runs of one series where one follows the other, as far as a run may be long."""
    runs.sort(key=lambda run: run.n)
    last = runs[0]
    for run in runs[1:]:
        if run.n == last.n + len(last.piece.times) and run.piece.vtype == last.piece.vtype:
            last.piece.join(run.piece)
        else:
            yield from pages.split(last)
            last = run
    yield from pages.split(last)
