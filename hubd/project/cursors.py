"""How far projectors have come in the log, beside what they made of it (I9)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync._native import batch
from edgesync._native.batch import Record
from edgesync_transport.messages import Codec
from hubd.db.dialect import insert
from hubd.log.base import Entry
from hubd.project.feed import LIGHT_BYTES, Cursor, is_light
from hubd.state import tables
from hubd.state.fresh import Fresh, after_commit
from hubd.state.sync import make_durable

# Entries that brought nothing and are read again by whoever starts after a kill, and for how long
# the log rests before that need not be.
UNSTORED_MAX: Final = 1024
REST_S: Final = 1.0


def read_cursor(connection: sa.Connection, name: str) -> Cursor:
    table = tables.projector_cursor
    row = connection.execute(sa.select(table).where(table.c.name == name)).first()
    return Cursor() if row is None else Cursor(row.position, row.part_of, row.done)


def move_cursor(connection: sa.Connection, name: str, cursor: Cursor) -> None:
    """Set the cursor; it never goes back, whoever else may be writing."""
    table = tables.projector_cursor
    before = read_cursor(connection, name)
    is_ahead = cursor.position > before.position or (
        cursor.position == before.position
        and (cursor.part_of != before.part_of or cursor.done > before.done)
    )
    assert is_ahead, f"{name}: {before} cannot go to {cursor}"
    statement = insert(table).values(name=name, **msgspec.structs.asdict(cursor))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.name], set_=msgspec.structs.asdict(cursor)
        )
    )


def durable_cursors(connection: sa.Connection) -> dict[str, int]:
    """Return by projector up to where the log is in its rows, also after a power cut."""
    table = tables.projector_cursor
    found = connection.execute(sa.select(table.c.name, table.c.position)).all()
    make_durable(connection)
    return {name: position for name, position in found}  # of rows


class CommitsEach(ABC):
    """What a projector does whose rows are stored with each transaction.

    What brought no row needs no transaction of its own: most entries are readings, and nothing to
    these projectors. The cursor is stored with the next row, or with others, or once the log rests.
    Whoever begins before entries that brought nothing reads them again, and they bring nothing.
    """

    name: str
    is_full = False
    brought = True  # whether the last `apply` made or changed a row

    def __init__(self) -> None:
        self._seen = self._stored = Cursor()
        self._pressed = 0

    def begin(self, connection: sa.Connection) -> Cursor:
        self._seen = self._stored = read_cursor(connection, self.name)
        return self._seen

    def takes_light(self, entry: Entry, fresh: Fresh) -> bool:
        if entry.codec is not Codec.PROPOSAL:
            if not is_light(entry):
                return False
            if self.wants(batch.events(entry.codec, entry.payload, limit_bytes=LIGHT_BYTES)):
                return False
        self._seen = Cursor(entry.position)
        return True

    @abstractmethod
    def wants(self, records: Sequence[tuple[int, Record]]) -> bool:
        """Whether these records of a batch, those beside readings, may make a row."""

    def move(self, connection: sa.Connection, cursor: Cursor) -> None:
        if self.brought:
            self._store(connection, cursor)
        else:
            after_commit(connection, partial(setattr, self, "_seen", cursor))
        self.brought = True

    def _store(self, connection: sa.Connection, cursor: Cursor) -> None:
        def stored() -> None:
            self._seen = self._stored = cursor

        move_cursor(connection, self.name, cursor)
        after_commit(connection, stored)

    def press(self, position: int) -> None:
        self._pressed = max(self._pressed, position)

    def wait_s(self) -> float:
        return float("inf") if self._seen == self._stored else REST_S

    def is_due(self, *, is_idle: bool) -> bool:
        seen, stored = self._seen.position, self._stored.position
        if is_idle:
            return self._seen != self._stored
        return seen >= stored + UNSTORED_MAX or stored < min(seen, self._pressed)

    def store(self, connection: sa.Connection, *, is_idle: bool) -> None:
        self._store(connection, self._seen)
