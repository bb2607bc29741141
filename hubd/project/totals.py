"""Counts per edge, kept in the same transaction as what they count."""

from collections import Counter
from typing import Final

import sqlalchemy as sa

from hubd.db.dialect import insert
from hubd.log.base import Entry
from hubd.state import tables

COUNTED: Final = ("readings", "events", "dead", "lost", "series", "refused")
# What a hostile edge says it has lost may be any number; sums stay within 64 bits.
COUNT_MAX: Final = 1 << 61


class Totals:
    """What one transaction adds."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._stored_at_ns: dict[str, int] = {}

    def add(self, entry: Entry, **counts: int) -> None:
        """Add to the counts of the edge of `entry`, by their names in COUNTED."""
        self.add_counts(entry.edge, entry.stored_at_ns, **counts)

    def add_counts(self, edge: str, stored_at_ns: int, **counts: int) -> None:
        """Add to the counts of an edge whose newest entry the log got then."""
        self._counts.setdefault(edge, Counter()).update(counts)
        self._stored_at_ns[edge] = stored_at_ns

    def store(self, connection: sa.Connection) -> None:
        rows = [
            {"edge": edge, "stored_at_ns": self._stored_at_ns[edge]}
            | {name: min(counts[name], COUNT_MAX) for name in COUNTED}
            for edge, counts in self._counts.items()
        ]
        if rows:
            connection.execute(_ADD, rows)


def _add_statement() -> sa.Executable:
    statement = insert(tables.edge_totals)
    old, new = tables.edge_totals.c, statement.excluded
    sums = {name: old[name] + new[name] for name in COUNTED}
    changes = {name: sa.case((one > COUNT_MAX, COUNT_MAX), else_=one) for name, one in sums.items()}
    changes["stored_at_ns"] = sa.case(
        (new.stored_at_ns > old.stored_at_ns, new.stored_at_ns), else_=old.stored_at_ns
    )
    return statement.on_conflict_do_update(index_elements=[old.edge], set_=changes)


_ADD: Final = _add_statement()
