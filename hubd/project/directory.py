"""The series of every edge: found by id, named by their declarations."""

import json

import msgspec
import sqlalchemy as sa

from edgesync._native import event
from edgesync.errors import RecordError
from edgesync.model import EventType, series_id
from hubd.state import tables


class Declaration(msgspec.Struct, frozen=True):
    """The body of a SERIES event."""

    entity: str
    key: str
    unit: str = ""


class Known(msgspec.Struct):
    """A series; `entity` and `key` are empty until its declaration has arrived."""

    ref: int
    edge: str
    series: int
    entity: str
    key: str
    unit: str


class Directory:
    """Remembers what is in the table `series`, an edge at a time."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[int, Known]] = {}

    def forget(self) -> None:
        self._edges.clear()

    def find(self, connection: sa.Connection, edge: str, series: int) -> Known:
        """Return the series, entered into the table if it is new."""
        known = self._of(connection, edge).get(series)
        return known or self._enter(connection, Known(0, edge, series, "", "", ""))

    def declare(self, connection: sa.Connection, edge: str, declared: Declaration) -> None:
        """Name a series; the newest declaration is right (a unit may have been corrected)."""
        known = self.find(connection, edge, series_id(declared.entity, declared.key))
        if (known.entity, known.key, known.unit) == (declared.entity, declared.key, declared.unit):
            return
        known.entity, known.key, known.unit = declared.entity, declared.key, declared.unit
        table = tables.series
        connection.execute(
            table.update()
            .where(table.c.ref == known.ref)
            .values(entity=known.entity, key=known.key, unit=known.unit)
        )

    def _of(self, connection: sa.Connection, edge: str) -> dict[int, Known]:
        if edge not in self._edges:
            table = tables.series
            rows = connection.execute(sa.select(table).where(table.c.edge == edge))
            self._edges[edge] = {
                tables.unsigned(row.series): Known(
                    row.ref, edge, tables.unsigned(row.series),
                    row.entity or "", row.key or "", row.unit,
                )
                for row in rows
            }  # fmt: skip
        return self._edges[edge]

    def _enter(self, connection: sa.Connection, known: Known) -> Known:
        row = {"edge": known.edge, "series": tables.signed(known.series), "unit": known.unit}
        result = connection.execute(tables.series.insert().values(row))
        assert result.inserted_primary_key is not None
        known.ref = result.inserted_primary_key[0]
        self._edges[known.edge][known.series] = known
        return known


def read_declaration(body: bytes) -> Declaration | None:
    """The declaration an event record carries, None if it carries something else.

    One that cannot be read is no reason to refuse readings: the event itself is kept and shown.
    """
    try:
        fields = event.decode(body)
        if fields[0] != EventType.SERIES:
            return None
        return msgspec.convert(json.loads(fields[4]), Declaration)
    except (RecordError, ValueError):
        return None
