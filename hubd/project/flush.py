"""Writing fresh points out: pages of an edge, the newest of each series, aggregates, totals.

All of an edge goes in one transaction, with the position up to which the log is in its rows (I9).
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from hubd.db.dialect import insert, insert_rows
from hubd.project.totals import Totals
from hubd.state import tables
from hubd.state.fresh import EdgeFresh
from hubd.state.pages import Builder, Run, split
from hubd.state.pieces import Piece, to_bits
from hubd.state.points import page_row
from hubd.state.rollups import HOURS, MINUTES, aggregate, level_of, merge

# Points of a run: within a few percent of the best bytes a point, and quick to look through.
RUN_POINTS: Final = 1024
# Rows of `page` held back for one statement.
PENDING_BYTES: Final = 4 << 20


def flush(connection: sa.Connection, edge: str, fresh: EdgeFresh) -> None:
    """Store what is fresh of an edge; the memtable stays as it is."""
    _Flush(connection, edge).run(fresh)
    totals = Totals()
    totals.add_counts(edge, fresh.stored_at_ns, readings=fresh.readings, refused=fresh.refused)
    totals.store(connection)
    connection.execute(_SET_STORED, {"edge": edge, "position": fresh.position})


class _Flush:
    def __init__(self, connection: sa.Connection, edge: str) -> None:
        self._connection = connection
        self._edge = edge
        self._builders = [Builder() for _ in range(MINUTES.number + 1)]
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0

    def run(self, fresh: EdgeFresh) -> None:
        changed, longer = [], []
        for ref, series in fresh.table.fresh():
            tail = fresh.table.tail(series)
            assert tail is not None
            points, time_ns, vtype, value = tail
            if time_ns is None or vtype is None or value is None:
                longer.append({"its_ref": ref, "points": points})
            else:
                bits, text = to_bits(vtype, value)
                changed.append({
                    "ref": ref, "points": points, "time_ns": time_ns, "vtype": vtype,
                    "bits": bits, "text": text,
                })  # fmt: skip
            self._add(ref, [
                (n, Piece(vtype, times, values))
                for n, vtype, times, values in fresh.table.runs(series)
            ])  # fmt: skip
        for level in range(len(self._builders)):
            self._emit(level)
        self._insert()
        if changed:
            self._connection.execute(_SET_LATEST, changed)
        if longer:
            self._connection.execute(_SET_LENGTH, longer)

    def _add(self, ref: int, pieces: Sequence[tuple[int, Piece]]) -> None:
        t_min = min(min(piece.times) for _, piece in pieces)
        t_max = max(max(piece.times) for _, piece in pieces)
        number = level_of(sum(len(piece.times) for _, piece in pieces), t_min, t_max)
        for n, piece in pieces:
            for run in split(Run(ref, n, piece), RUN_POINTS):
                if not self._builders[number].takes(ref):
                    self._emit(number)
                self._builders[number].add(run)
        for level in (HOURS, MINUTES):
            if level.number <= number:
                merge(
                    self._connection, level.table,
                    (b for _, piece in pieces for b in aggregate(ref, piece, level.width_ns)),
                )  # fmt: skip

    def _emit(self, level: int) -> None:
        builder = self._builders[level]
        if builder.is_empty:
            return
        self._builders[level] = Builder()
        page = builder.page()
        self._pending.append(page_row(self._edge, level, page))
        self._pending_bytes += len(page.data)
        if self._pending_bytes > PENDING_BYTES:
            self._insert()

    def _insert(self) -> None:
        insert_rows(self._connection, tables.page, self._pending)
        self._pending, self._pending_bytes = [], 0


def _upsert(table: sa.Table, key: str) -> sa.Executable:
    statement = insert(table)
    changes = {name: statement.excluded[name] for name in table.columns.keys() if name != key}  # noqa: SIM118
    return statement.on_conflict_do_update(index_elements=[table.c[key]], set_=changes)


_SET_LATEST: Final = _upsert(tables.latest, "ref")
_SET_STORED: Final = _upsert(tables.stored, "edge")
_SET_LENGTH: Final = (
    tables.latest.update()
    .where(tables.latest.c.ref == sa.bindparam("its_ref"))
    .values(points=sa.bindparam("points"))
)
