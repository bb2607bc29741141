"""Having what is committed survive a power cut: the log may drop only what is stored like that."""

import contextlib
import os

import sqlalchemy as sa

from hubd.state import tables


def make_durable(connection: sa.Connection) -> None:
    """Have all that was committed before this transaction be durable once it is committed, too.

    Commits of the state are not waited for otherwise: what a power cut takes of them is projected
    from the log again.
    """
    if connection.dialect.name == "sqlite":
        path = connection.exec_driver_sql("PRAGMA database_list").all()[0][2]
        # It was synced when it was emptied. No lock is on this file, so closing it gives up none.
        with contextlib.suppress(FileNotFoundError), open(f"{path}-wal", "rb") as wal:
            os.fsync(wal.fileno())
        return
    connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
    meta = tables.meta  # a commit that writes nothing waits for nothing
    connection.execute(meta.update().where(meta.c.name == "generation").values(value=meta.c.value))
