"""Levels of detail: what is old goes level by level, as the operator wants it.

Readings that go leave aggregates of an hour behind, if those are kept for longer. Windows of edges
are merged into windows of an hour before they go. An hour is made once: what arrives for it
afterwards, from an edge that was away that long, stays beside it as it came. Aggregates of the
hub's own are just removed, for there are rows of all levels from the beginning.

Each class is one pass over one table, in steps that are planned in a reader (`hubd.state.upkeep`).
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync._native.window import Window
from hubd.state import pages, tables
from hubd.state.database import Change
from hubd.state.points import NOWHERE, SPANS_NS
from hubd.state.rollups import HOUR_NS, HOURS, Bucket, aggregate, merge
from hubd.state.windows import decoded

# A step holds up the projectors for so many rows: some milliseconds of work. On a machine that
# twelve others wanted, too, four times as many held them up for 150 ms (bench `questions`).
ROWS_A_STEP: Final = 500
PAGES_A_STEP: Final = 32
HOURS_A_STEP: Final = 50
# What one transaction of a reader looks at.
SERIES_A_LOOK: Final = 200
EDGES_A_LOOK: Final = 16
EVERY_WINDOW: Final = ("", NOWHERE[0], NOWHERE[0])


class OldRollups:
    """Removes aggregates of one table that begin before then, series by series."""

    def __init__(self, table: sa.Table, before_ns: int) -> None:
        self.is_over = False
        self._table = table
        self._before_ns = before_ns
        self._after_ref = -1

    def plan(self, connection: sa.Connection) -> Change | None:
        """Return the next step, None if there is none among the series looked at."""
        table, room = self._table, ROWS_A_STEP
        ends: list[tuple[int, int]] = []
        following = sa.select(sa.func.min(table.c.ref)).where(table.c.ref > sa.bindparam("after"))
        oldest = (
            sa.select(table.c.ref, table.c.start_ns)
            .where(table.c.ref == following.scalar_subquery())
            .order_by(table.c.start_ns)
            .limit(1)
        )
        for _ in range(SERIES_A_LOOK):
            row = connection.execute(oldest, {"after": self._after_ref}).first()
            if row is None:
                self.is_over = True
                break
            if row.start_ns < self._before_ns:
                starts = self._old_starts(connection, row.ref, room)
                ends.append((row.ref, starts[-1] + 1))
                room -= len(starts)
                if not room:
                    break  # more of the same series may be left
            self._after_ref = row.ref
        return _RemoveRows(table, ends) if ends else None

    def _old_starts(self, connection: sa.Connection, ref: int, limit: int) -> Sequence[int]:
        table = self._table.c
        question = (
            sa.select(table.start_ns)
            .where(table.ref == ref, table.start_ns < self._before_ns)
            .order_by(table.start_ns)
            .limit(limit)
        )
        return connection.scalars(question).all()


class _RemoveRows(msgspec.Struct, frozen=True):
    """Removes aggregates of series that begin before a time of each."""

    table: sa.Table
    ends: Sequence[tuple[int, int]]

    def __call__(self, connection: sa.Connection) -> None:
        table = self.table
        statement = table.delete().where(
            table.c.ref == sa.bindparam("its_ref"), table.c.start_ns < sa.bindparam("its_end")
        )
        rows = [{"its_ref": ref, "its_end": end_ns} for ref, end_ns in self.ends]
        connection.execute(statement, rows)


class OldReadings:
    """Removes pages all of whose readings are older; `keeps_hours` makes them hours before."""

    def __init__(self, before_ns: int, *, keeps_hours: bool) -> None:
        self.is_over = False
        self._before_ns = before_ns
        self._keeps_hours = keeps_hours
        self._places: Iterator[tuple[str, int]] | None = None
        self._place: tuple[str, int] | None = None

    def plan(self, connection: sa.Connection) -> Change | None:
        """Return the next step, None if there is none among the edges looked at."""
        if self._places is None:
            edges = connection.scalars(sa.select(tables.stored.c.edge)).all()
            self._places = ((edge, span) for edge in edges for span in range(len(SPANS_NS) + 1))
        for _ in range(EDGES_A_LOOK):
            place = self._place or next(self._places, None)
            if place is None:
                self.is_over = True
                break
            self._place = place
            if (step := self._plan_place(connection, *place)) is not None:
                return step
            self._place = None
        return None

    def _plan_place(self, connection: sa.Connection, edge: str, span: int) -> Change | None:
        table = tables.page.c
        question = (
            sa.select(table.id, table.level)
            .where(
                table.edge == edge, table.span == span,
                table.t_min < self._before_ns, table.t_max < self._before_ns,
            )
            .order_by(table.t_min)
            .limit(PAGES_A_STEP)
        )  # fmt: skip
        ids: list[int] = []
        hours: list[Bucket] = []
        for row in connection.execute(question).all():
            ids.append(row.id)
            if self._keeps_hours and row.level < HOURS.number:
                data = connection.scalar(sa.select(table.data).where(table.id == row.id))
                for run in pages.runs(data or b""):
                    hours += aggregate(run.ref, run.piece, HOUR_NS)
            if len(hours) >= ROWS_A_STEP:
                break
        return _RemovePages(ids, hours) if ids else None


class _RemovePages(msgspec.Struct, frozen=True):
    """Removes pages; `hours` are what is left of their readings."""

    ids: Sequence[int]
    hours: Sequence[Bucket]

    def __call__(self, connection: sa.Connection) -> None:
        merge(connection, tables.rollup_1h, self.hours)
        connection.execute(tables.page.delete().where(tables.page.c.id.in_(self.ids)))


class OldWindows:
    """Makes windows of whole hours that are over out of narrower ones, series by series."""

    def __init__(self, before_ns: int) -> None:
        self.is_over = False
        self._before_ns = before_ns
        self._after = EVERY_WINDOW

    def plan(self, connection: sa.Connection) -> Change | None:
        """Return the next step, None if there is none among the series looked at."""
        table = tables.windows.c
        key = sa.tuple_(table.edge, table.series, table.width_ns)
        for _ in range(SERIES_A_LOOK):
            question = (
                sa.select(table.edge, table.series, table.width_ns)
                .where(key > sa.tuple_(*self._after))
                .order_by(table.edge, table.series, table.width_ns)
                .limit(1)
            )
            row = connection.execute(question).first()
            if row is None:
                self.is_over = True
                break
            hours = self._hours(connection, *row) if HOUR_NS % row.width_ns == 0 else []
            if len(hours) < HOURS_A_STEP:
                self._after = (row.edge, row.series, row.width_ns)
            if hours:
                return _MergeHours(row.edge, row.series, row.width_ns, hours)
        return None

    def _hours(
        self, connection: sa.Connection, edge: str, series: int, width_ns: int
    ) -> Sequence[int]:
        """Return the oldest hours that are not made yet."""
        fine, hour = tables.windows.c, tables.windows.alias("hour").c
        start = (fine.start_ns - fine.start_ns % HOUR_NS).label("hour_ns")
        is_made = sa.exists().where(
            (hour.edge == edge)
            & (hour.series == series)
            & (hour.width_ns == HOUR_NS)
            & (hour.start_ns == fine.start_ns - fine.start_ns % HOUR_NS)
        )
        question = (
            sa.select(start)
            .where(
                (fine.edge == edge)
                & (fine.series == series)
                & (fine.width_ns == width_ns)
                & (fine.start_ns >= 0)
                & (fine.start_ns < self._before_ns - self._before_ns % HOUR_NS)
                & ~is_made
            )
            .distinct()
            .order_by(start)
            .limit(HOURS_A_STEP)
        )
        return connection.scalars(question).all()


class _MergeHours(msgspec.Struct, frozen=True):
    """Makes windows of these hours out of those of one series and width."""

    edge: str
    series: int
    width_ns: int
    hours: Sequence[int]

    def __call__(self, connection: sa.Connection) -> None:
        for hour_ns in self.hours:
            self._merge_hour(connection, hour_ns)

    def _merge_hour(self, connection: sa.Connection, hour_ns: int) -> None:
        edge, series, width_ns = self.edge, self.series, self.width_ns
        table = tables.windows
        is_part = (
            (table.c.edge == edge)
            & (table.c.series == series)
            & (table.c.width_ns == width_ns)
            & (table.c.start_ns >= hour_ns)
            & (table.c.start_ns < hour_ns + HOUR_NS)
        )
        question = (
            sa.select(table.c.revision, table.c.data).where(is_part).order_by(table.c.start_ns)
        )
        parts = connection.execute(question).all()
        window = Window()
        for part in parts:
            window.merge(decoded(part.data))
        connection.execute(table.delete().where(is_part))
        # Of two widths of one series, the one that was met first makes the hour.
        made = sa.select(table.c.revision).where(
            (table.c.edge == edge)
            & (table.c.series == series)
            & (table.c.width_ns == HOUR_NS)
            & (table.c.start_ns == hour_ns)
        )
        if connection.execute(made).first() is None:
            revision = max(part.revision for part in parts)
            row = {
                "edge": edge, "series": series, "width_ns": HOUR_NS, "start_ns": hour_ns,
                "revision": revision, "data": window.encode(),
            }  # fmt: skip
            connection.execute(table.insert(), row)
