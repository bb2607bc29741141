"""Which log a state was made from, and how far it has come in it."""

from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from hubd.state import tables


class Origin(msgspec.Struct, frozen=True):
    """A log: its generation, and up to where it goes by now: tables are opened again and again."""

    generation: bytes
    head: Callable[[], int] | None = None


def claim(connection: sa.Connection, generation: bytes) -> bytes:
    """Return the log that the state is of, `generation` if of none before."""
    meta = tables.meta
    found: bytes | None = connection.scalar(
        sa.select(meta.c.value).where(meta.c.name == "generation")
    )
    if found is None:
        connection.execute(meta.insert().values(name="generation", value=generation))
    return found or generation


def foreign_reason(connection: sa.Connection, origin: Origin) -> str:
    """Return why the state is not of that log, "" if it is; one without a past is claimed for it.

    One that knows more than the log holds was made from another, too.
    """
    if claim(connection, origin.generation) != origin.generation:
        return "was made from another log"
    positions = (tables.projector_cursor.c.position, tables.stored.c.position)
    known = max(connection.scalar(sa.select(sa.func.max(one))) or 0 for one in positions)
    if origin.head is not None and known > (head := origin.head()):
        return f"knows entry {known}, and the log ends at {head}"
    return ""
