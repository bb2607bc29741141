"""The series of every edge: found by id, named by their declarations, so many an edge at most."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from edgesync._native import event
from edgesync.errors import RecordError
from edgesync.model import EventType, series_id
from hubd.state import tables

SERIES_MAX: Final = 10_000
NAME_CHARS_MAX: Final = 255
# Series kept in memory, some 300 bytes each; beyond it those go that were needed least lately (I7).
CACHED_MAX: Final = 100_000
# SQLite takes 32,766 parameters a statement; a few hundred are as quick as more.
IDS_A_QUERY: Final = 500


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
    """Remembers rows of the table `series`.

    series_max   an edge's series beyond it are not entered
    """

    def __init__(self, series_max: int = SERIES_MAX) -> None:
        self.series_max = series_max
        self._known: dict[tuple[str, int], Known] = {}
        self._counts: dict[str, int] = {}

    def forget(self) -> None:
        self._known.clear()
        self._counts.clear()

    def trim(self) -> None:
        """Keep memory bounded; call it between transactions."""
        while len(self._known) > CACHED_MAX:
            del self._known[next(iter(self._known))]

    def find(
        self, connection: sa.Connection, edge: str, wanted: Iterable[int]
    ) -> tuple[dict[int, Known], int]:
        """Return the series, and how many had to be entered; those beyond the limit are missing."""
        found: dict[int, Known] = {}
        missing: list[int] = []
        for series in dict.fromkeys(wanted):
            known = self._known.pop((edge, series), None)
            if known is None:
                missing.append(series)
            else:
                found[series] = self._known[edge, series] = known
        entered = 0
        if missing:
            self._load(connection, edge, missing, found)
            new = [series for series in missing if series not in found]
            new = new[: max(0, self.series_max - self._count(connection, edge))]
            if new:
                rows = [
                    {"edge": edge, "series": tables.signed(series), "unit": ""} for series in new
                ]
                connection.execute(tables.series.insert(), rows)
                self._load(connection, edge, new, found)
                self._counts[edge] += len(new)
                entered = len(new)
        return found, entered

    def declare(
        self, connection: sa.Connection, found: Mapping[int, Known], declared: Iterable[Declaration]
    ) -> None:
        """Name series; the newest declaration is right (a unit may have been corrected)."""
        renamed: dict[int, Known] = {}
        for one in declared:
            known = found.get(series_id(one.entity, one.key))
            if known is None or (known.entity, known.key, known.unit) == (
                one.entity, one.key, one.unit,
            ):  # fmt: skip
                continue
            known.entity, known.key, known.unit = one.entity, one.key, one.unit
            renamed[known.ref] = known
        if renamed:
            connection.execute(_RENAME, [_names_of(known) for known in renamed.values()])

    def _count(self, connection: sa.Connection, edge: str) -> int:
        if edge not in self._counts:
            table = tables.series
            question = sa.select(sa.func.count()).select_from(table).where(table.c.edge == edge)
            self._counts[edge] = connection.scalar(question) or 0
        return self._counts[edge]

    def _load(
        self, connection: sa.Connection, edge: str, wanted: Sequence[int], found: dict[int, Known]
    ) -> None:
        table = tables.series
        for i in range(0, len(wanted), IDS_A_QUERY):
            ids = [tables.signed(series) for series in wanted[i : i + IDS_A_QUERY]]
            is_wanted = (table.c.edge == edge) & table.c.series.in_(ids)
            for row in connection.execute(sa.select(table).where(is_wanted)):
                known = Known(
                    row.ref, edge, tables.unsigned(row.series),
                    row.entity or "", row.key or "", row.unit,
                )  # fmt: skip
                found[known.series] = self._known[edge, known.series] = known


_RENAME: Final = (
    tables.series.update()
    .where(tables.series.c.ref == sa.bindparam("its_ref"))
    .values(
        entity=sa.bindparam("entity"), key=sa.bindparam("key"), unit=sa.bindparam("unit")
    )
)  # fmt: skip


def _names_of(known: Known) -> dict[str, Any]:
    return {"its_ref": known.ref, "entity": known.entity, "key": known.key, "unit": known.unit}


def read_declaration(body: bytes) -> Declaration | None:
    """Return the declaration an event record carries, None if it carries something else.

    One that cannot be read is no reason to refuse readings: the event itself is kept and shown.
    """
    try:
        fields = event.decode(body)
        if fields[0] != EventType.SERIES:
            return None
        declared = msgspec.convert(json.loads(fields[4]), Declaration)
        # No UTF-8 has half of a pair of surrogates; \\ud800 in JSON makes one.
        names = [name.encode() for name in (declared.entity, declared.key, declared.unit)]
    except (RecordError, ValueError, RecursionError):
        return None
    is_short = all(len(name) <= 4 * NAME_CHARS_MAX for name in names)
    return declared if is_short else None
