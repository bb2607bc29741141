"""The series of every edge: found by id, named by their declarations, so many an edge at most."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from edgesync._native import event
from edgesync.errors import RecordError
from edgesync.model import EventType, series_id
from hubd.db.dialect import insert_rows
from hubd.state import StateDamaged, tables

NAME_CHARS_MAX: Final = 255
# Names kept for who watches, some 300 bytes each; beyond it all are looked up again (I7).
CACHED_MAX: Final = 100_000
# SQLite takes 32,766 parameters a statement; a few hundred are as quick as more.
IDS_A_QUERY: Final = 500


class Declaration(msgspec.Struct, frozen=True):
    """The body of a SERIES event."""

    entity: str
    key: str
    unit: str = ""


class Stored(NamedTuple):
    """A series: its number, how many points of it are in pages, and the newest one's time."""

    series: int
    ref: int
    points: int
    time_ns: int


NEVER: Final = -(1 << 63)


def load(connection: sa.Connection, edge: str) -> list[Stored]:
    """Return the series of an edge; raises StateDamaged when its counts contradict each other."""
    table, newest, totals = tables.series, tables.latest, tables.edge_totals.c
    question = (
        sa.select(table.c.series, table.c.ref, newest.c.points, newest.c.time_ns)
        .join_from(table, newest, newest.c.ref == table.c.ref, isouter=True)
        .where(table.c.edge == edge)
    )
    found = [
        Stored(tables.unsigned(series), ref, points or 0, NEVER if time_ns is None else time_ns)
        for series, ref, points, time_ns in connection.execute(question)
    ]
    counted = connection.scalar(sa.select(totals.readings).where(totals.edge == edge)) or 0
    if sum(one.points for one in found) != counted:
        raise StateDamaged(f"the series of {edge} do not have the {counted} points of its total")
    return found


def enter(connection: sa.Connection, edge: str, ids: Sequence[int]) -> list[Stored]:
    """Enter series that are not there."""
    rows = [{"edge": edge, "series": tables.signed(series), "unit": ""} for series in ids]
    insert_rows(connection, tables.series, rows)
    return [
        Stored(tables.unsigned(row.series), row.ref, 0, NEVER)
        for row in _rows(connection, edge, ids)
    ]


def declare(connection: sa.Connection, edge: str, newest: Mapping[int, Declaration]) -> set[int]:
    """Name series by id; the newest declaration is right (a unit may have been corrected).

    Those that are not entered stay without; returns the ids of which something has changed.
    """
    renamed: dict[int, dict[str, Any]] = {}
    for row in _rows(connection, edge, list(newest)):
        series = tables.unsigned(row.series)
        one = newest[series]
        if (row.entity, row.key, row.unit) != (one.entity, one.key, one.unit):
            renamed[series] = {
                "its_ref": row.ref, "its_entity": one.entity, "its_key": one.key,
                "its_unit": one.unit,
            }  # fmt: skip
    if renamed:
        connection.execute(_RENAME, list(renamed.values()))
    return set(renamed)


class Names:
    """Remembers what series are called, for updates to who watches."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Declaration] = {}

    def forget(self) -> None:
        self._known.clear()

    def find(
        self, connection: sa.Connection, edge: str, ids: Iterable[int]
    ) -> Mapping[int, Declaration]:
        """Return the names of series of an edge; empty ones until they are declared."""
        found: dict[int, Declaration] = {}
        missing = []
        for series in ids:
            known = self._known.get((edge, series))
            if known is None:
                missing.append(series)
            else:
                found[series] = known
        for row in _rows(connection, edge, missing):
            series = tables.unsigned(row.series)
            found[series] = Declaration(row.entity or "", row.key or "", row.unit)
        if len(self._known) + len(missing) > CACHED_MAX:
            self._known.clear()
        self._known |= {(edge, series): found[series] for series in missing if series in found}
        return found


class Waiting:
    """Finds the names of series that waited for room: they were declared when there was none.

    edges   those some of whose readings were refused before this start
    """

    def __init__(self) -> None:
        self.edges: set[str] = set()
        self._names: dict[str, dict[int, Declaration]] = {}

    def forget(self, edges: Iterable[str]) -> None:
        """Begin anew."""
        self.edges, self._names = set(edges), {}

    def find(
        self, connection: sa.Connection, edge: str, ids: Iterable[int], limit: int
    ) -> Mapping[int, Declaration]:
        """Return names among the edge's newest `limit` declarations, as far as they are there."""
        if edge not in self.edges:
            return {}
        if edge not in self._names:
            if sum(map(len, self._names.values())) > CACHED_MAX:
                self._names.clear()
            self._names[edge] = _declared(connection, edge, limit)
        names = self._names[edge]
        return {series: names.pop(series) for series in ids if series in names}


def _declared(connection: sa.Connection, edge: str, limit: int) -> dict[int, Declaration]:
    table = tables.edge_events.c
    question = (
        sa.select(table.body)
        .where(table.edge == edge, table.type == int(EventType.SERIES))
        .order_by(table.n.desc())
        .limit(limit)
    )
    found: dict[int, Declaration] = {}
    for (body,) in connection.execute(question):
        one = _declaration_of(body)
        if one is not None:
            found.setdefault(series_id(one.entity, one.key), one)
    return found


def refs(connection: sa.Connection, edge: str, ids: Sequence[int]) -> dict[int, int]:
    """Return the numbers of those series of an edge that are entered."""
    return {tables.unsigned(row.series): row.ref for row in _rows(connection, edge, ids)}


def _rows(connection: sa.Connection, edge: str, wanted: Sequence[int]) -> list[sa.Row[Any]]:
    table = tables.series
    rows: list[sa.Row[Any]] = []
    for i in range(0, len(wanted), IDS_A_QUERY):
        ids = [tables.signed(series) for series in wanted[i : i + IDS_A_QUERY]]
        is_wanted = (table.c.edge == edge) & table.c.series.in_(ids)
        rows += connection.execute(sa.select(table).where(is_wanted)).all()
    return rows


_RENAME: Final = (
    tables.series.update()
    .where(tables.series.c.ref == sa.bindparam("its_ref"))
    .values(
        {name: sa.bindparam(f"its_{name}") for name in ("entity", "key", "unit")}
    )
)  # fmt: skip


def read_declaration(body: bytes) -> Declaration | None:
    """Return the declaration an event record carries, None if it carries something else.

    One that cannot be read is no reason to refuse readings: the event itself is kept and shown.
    """
    try:
        fields = event.decode(body)
    except RecordError:
        return None
    return _declaration_of(fields[4]) if fields[0] == EventType.SERIES else None


def _declaration_of(content: bytes) -> Declaration | None:
    try:
        declared = msgspec.convert(json.loads(content), Declaration)
        # No UTF-8 has half of a pair of surrogates; \\ud800 in JSON makes one.
        names = [name.encode() for name in (declared.entity, declared.key, declared.unit)]
    except (ValueError, RecursionError):
        return None
    is_short = all(len(name) <= 4 * NAME_CHARS_MAX for name in names)
    return declared if is_short else None
