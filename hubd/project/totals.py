"""Counts per edge, kept in the same transaction as what they count."""

from collections import Counter
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from hubd.log.base import Entry
from hubd.state import tables

COUNTED: Final = ("readings", "events", "dead", "lost")


class Totals:
    """What one transaction adds."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._stored_at_ns: dict[str, int] = {}

    def add(
        self, entry: Entry, *, readings: int = 0, events: int = 0, dead: int = 0, lost: int = 0
    ) -> None:
        counts = self._counts.setdefault(entry.edge, Counter())
        counts.update(readings=readings, events=events, dead=dead, lost=lost)
        self._stored_at_ns[entry.edge] = entry.stored_at_ns

    def store(self, connection: sa.Connection) -> None:
        rows = [
            {"edge": edge, "stored_at_ns": self._stored_at_ns[edge]}
            | {name: counts[name] for name in COUNTED}
            for edge, counts in self._counts.items()
        ]
        if rows:
            connection.execute(_ADD, rows)


def _add_statement() -> sa.Executable:
    statement = insert(tables.edge_totals)
    old, new = tables.edge_totals.c, statement.excluded
    changes = {name: old[name] + new[name] for name in COUNTED}
    changes["stored_at_ns"] = sa.case(
        (new.stored_at_ns > old.stored_at_ns, new.stored_at_ns), else_=old.stored_at_ns
    )
    return statement.on_conflict_do_update(index_elements=[old.edge], set_=changes)


_ADD: Final = _add_statement()
