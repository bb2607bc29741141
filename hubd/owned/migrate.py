"""Brings owned state up to date, in one transaction and forward only.

Of a file that has something in it a copy is kept beside it first. A database of a newer version is
refused untouched.
"""

import contextlib
import functools
import os
import sqlite3
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgesync.errors import StoreVersion
from edgesync.store.directory import sync_directory, sync_file
from hubd.db.upkeep import make_schema

FOLDER: Final = Path(__file__).parent / "migrations"


def migrate(
    engine: sa.Engine, schema: str, name: str, file: Path | None, *, to: str = "head"
) -> None:
    """Bring the database up to revision `to`; raises StoreVersion for one of a newer version.

    name   of the database, for people
    file   that is to be copied first, of SQLite
    """
    target = newest_revision() if to == "head" else to
    with engine.connect() as connection, connection.begin():
        found = revision_of(connection)
    if found == target:
        return
    with (
        engine.connect().execution_options(writes=True) as connection,
        connection.begin(),
    ):
        found = revision_of(connection)  # again: now nobody else migrates it
        if found == target:
            return
        if found > target:
            raise StoreVersion(path=name, found=int(found), known=int(target))
        if file is not None and sa.inspect(connection).get_table_names():
            _copy_aside(file, f"{file.name}.before-{target}")
        make_schema(connection, schema)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, target)


@functools.cache
def newest_revision() -> str:
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def revision_of(connection: sa.Connection) -> str:
    """Return the revision of the tables, "" of a database that has none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return config


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
