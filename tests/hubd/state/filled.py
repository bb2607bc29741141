"""A state that holds a point a minute of some series of an edge, in pages of an hour."""

from typing import Final

import sqlalchemy as sa

from edgesync._native.memtable import Memtable
from edgesync.model import ValueType
from hubd.project.flush import flush
from hubd.state import State, tables
from hubd.state.fresh import EdgeFresh
from hubd.state.points import NOWHERE
from hubd.state.rollups import HOUR_NS, MINUTE_NS
from tests.native.tables import table as made_table

HOURS_BEGIN: Final = 1_700_000_000 * 10**9 // (24 * HOUR_NS) * 24 * HOUR_NS
Batch = list[tuple[int, ValueType, list[int]]]


class Barn:
    """An edge with series 1, 2 and so on, of which each batch becomes pages at once."""

    def __init__(self, connection: sa.Connection, series: int) -> None:
        self._table = Memtable()
        for ref in range(1, series + 1):
            row = {"ref": ref, "edge": "barn", "series": ref, "unit": ""}
            connection.execute(tables.series.insert(), row)
            self._table.add(ref, ref, 0, NOWHERE[0])

    def store(self, connection: sa.Connection, batch: Batch) -> None:
        """Store times of series with a type of value; a value is its time."""
        columns = [
            (ref, vtype, [(at, float(at) if vtype == ValueType.F64 else at) for at in times])
            for ref, vtype, times in batch
        ]
        self._table.append(made_table(columns))
        flush(connection, "barn", EdgeFresh(self._table, position=1))
        self._table = self._table.emptied()


def write_hours(state: State, hours: int, series: int) -> None:
    """Write a point a minute of each series, an hour at a time."""

    def write(connection: sa.Connection) -> None:
        barn = Barn(connection, series)
        for begin in range(HOURS_BEGIN, HOURS_BEGIN + hours * HOUR_NS, HOUR_NS):
            times = list(range(begin, begin + HOUR_NS, MINUTE_NS))
            barn.store(connection, [(ref, ValueType.F64, times) for ref in range(1, series + 1)])

    state.write_now(write)
