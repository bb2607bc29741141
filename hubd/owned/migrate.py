"""Brings owned state up to date, in one transaction and forward only.

Of a file that has something in it a copy is kept beside it first. A database of a newer version is
refused untouched.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from edgesync.errors import StoreVersion
from edgesync.store.directory import sync_directory, sync_file
from hubd.db.migrations import Migrations
from hubd.db.upkeep import make_schema

MIGRATIONS: Final = Migrations(Path(__file__).parent / "migrations")


def migrate(
    engine: sa.Engine, schema: str, name: str, file: Path | None, *, to: str = "head"
) -> None:
    """Bring the database up to revision `to`; raises StoreVersion for one of a newer version.

    name   of the database, for people
    file   that is to be copied first, of SQLite
    """
    target = MIGRATIONS.newest if to == "head" else to
    with engine.connect() as connection, connection.begin():
        found = MIGRATIONS.revision_of(connection)
    if found == target:
        return
    with (
        engine.connect().execution_options(writes=True) as connection,
        connection.begin(),
    ):
        found = MIGRATIONS.revision_of(connection)  # again: now nobody else migrates it
        if found == target:
            return
        if found > target:
            raise StoreVersion(path=name, found=int(found), known=int(target))
        if file is not None and sa.inspect(connection).get_table_names():
            _copy_aside(file, f"{file.name}.before-{target}")
        make_schema(connection, schema)
        MIGRATIONS.upgrade(connection, target)


def _copy_aside(file: Path, name: str) -> None:
    """Keep what is committed in `file`, whole or not at all, as `name` beside it."""
    draft, aside = file.with_name(f"{name}.draft"), file.with_name(name)
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL, 0o600))
    with (
        contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(draft)) as copy,
    ):
        source.backup(copy)
    sync_file(draft)
    draft.replace(aside)
    sync_directory(file.parent)
