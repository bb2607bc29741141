"""What the log holds and the rows of a state do not: its newest points, in memory.

A memtable is filled in place and never emptied: once its points are rows, another one takes its
place, in the same moment as the commit (`State.moment`). So who looks at both, rows and memtables,
sees every point once.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec
import sqlalchemy as sa

from edgesync._native.memtable import Memtable
from edgesync.model import Value

OPTION: Final = "edgesync_fresh"
AFTER: Final = "edgesync_after_commit"

# What `Memtable.tail` returns.
Tail: TypeAlias = tuple[int, int, int, Value] | tuple[int, None, None, None]


class FreshLost(Exception):
    """There was no room to take in what is committed: memory has to be filled again."""


class EdgeFresh(msgspec.Struct):
    """Of one edge, all that is not stored yet.

    readings, refused, stored_at_ns   what its totals grow by
    since         position of the first entry that is not stored; 0 when everything is
    since_ns      when the log got that entry
    position      the newest entry that is in `table`
    """

    table: Memtable
    readings: int = 0
    refused: int = 0
    stored_at_ns: int = 0
    since: int = 0
    since_ns: int = 0
    position: int = 0


class Fresh:
    """The memtables of a state by edge; one task fills them, any thread looks at them."""

    def __init__(self, edges: Mapping[str, EdgeFresh] | None = None) -> None:
        self.edges: dict[str, EdgeFresh] = dict(edges or {})

    def view(self) -> "Fresh":
        """Return these memtables, whatever is stored from now on; they may grow."""
        view = Fresh.__new__(Fresh)
        view.edges = self.edges
        return view

    @property
    def readings(self) -> int:
        """How many readings are in memory and not in rows."""
        return sum(one.table.points for one in list(self.edges.values()))

    def enter(self, edge: str, fresh: EdgeFresh) -> None:
        self.edges[edge] = fresh

    def replace(self, emptied: Mapping[str, EdgeFresh | None]) -> None:
        """Put others in the place of memtables that are stored, or forget them where it is None."""
        edges = {edge: one for edge, one in self.edges.items() if edge not in emptied}
        edges |= {edge: one for edge, one in emptied.items() if one is not None}
        self.edges = edges  # views keep the old ones

    def clear(self) -> None:
        self.edges = {}


def fresh_of(connection: sa.Connection) -> Fresh:
    """Return the memtables that belong to the rows of `connection`."""
    found = connection.get_execution_options().get(OPTION)
    return found if isinstance(found, Fresh) else Fresh()


def after_commit(connection: sa.Connection, follow_up: Callable[[], None]) -> None:
    """Have `follow_up` done in the moment in which the transaction of `connection` is committed."""
    connection.get_execution_options()[AFTER].append(follow_up)
