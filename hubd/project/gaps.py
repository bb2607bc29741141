"""What of the log a state has not, for it was dropped before this state could read it.

A state that is made anew begins where the log begins. A backup's state has what is older
(`hubd restore --state`).
"""

from typing import Final

import msgspec
import sqlalchemy as sa

from hubd.db.dialect import insert
from hubd.state import tables

PREFIX: Final = "gap "


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Entries after `after` and up to `until` are not in the view of `projector`.

    before_ns   they were stored before then: when the oldest entry was that the log still had
    found_ns    when the projector came to it
    """

    projector: str
    after: int
    until: int
    before_ns: int
    found_ns: int


def note_gap(connection: sa.Connection, gap: Gap) -> None:
    """Keep it with the rows that lack it; of one that is known already, what is known."""
    value = msgspec.msgpack.encode(gap)
    row = insert(tables.meta).values(name=f"{PREFIX}{gap.projector} {gap.until}", value=value)
    connection.execute(row.on_conflict_do_nothing())


def read_gaps(connection: sa.Connection) -> list[Gap]:
    """Return all of them, those of the newest entries first."""
    meta = tables.meta.c
    question = sa.select(meta.value).where(meta.name.startswith(PREFIX))
    found = [msgspec.msgpack.decode(value, type=Gap) for value in connection.scalars(question)]
    return sorted(found, key=lambda gap: (-gap.until, gap.projector))
