"""How far projectors have come in the log, beside what they made of it (I9)."""

import msgspec
import sqlalchemy as sa

from hubd.db.dialect import insert
from hubd.project.feed import Cursor
from hubd.state import tables
from hubd.state.sync import make_durable


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


class CommitsEach:
    """What a projector does whose rows are stored with each transaction."""

    name: str
    is_full = False

    def begin(self, connection: sa.Connection) -> Cursor:
        return read_cursor(connection, self.name)

    def move(self, connection: sa.Connection, cursor: Cursor) -> None:
        move_cursor(connection, self.name, cursor)

    def press(self, position: int) -> None:
        pass

    def wait_s(self) -> float:
        return float("inf")

    def is_due(self, *, is_idle: bool) -> bool:
        return False

    def store(self, connection: sa.Connection, *, is_idle: bool) -> None:
        pass
