"""Copies of a state: for a backup, and taken into use again, by either database.

A copy is a file of SQLite, whichever database the state is in. A state that was copied goes on
wherever the log still has what comes after it.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hubd.db.engine import open_sqlite
from hubd.errors import HubError, StateUnreadable
from hubd.state import tables
from hubd.state.damage import is_damage
from hubd.state.file import upgrade
from hubd.state.schema import OF_SCHEMA, Hub, RowsOf, load_schema, open_schema_beside

log = logging.getLogger(__name__)

ASIDE: Final = ".replaced"
DRAFT: Final = ".draft"
WAL: Final = ("-wal", "-shm")
# A copy that is not finished is none, and what is copied is made durable with the whole backup.
QUICK: Final = ("journal_mode = OFF", "synchronous = OFF")
# Some rows have 64 KiB.
ROWS_TOGETHER: Final = 100


class StateRefused(HubError):
    """The state in use is as it was; the sentence names the remedy."""


class Extent(msgspec.Struct, frozen=True):
    """Which log a state was made of: `stored` is what all its views have, `newest` what one has."""

    generation: bytes
    stored: int
    newest: int


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        yield database


def extent_of(path: Path, views: Sequence[str]) -> Extent:
    """Return how far the state in `path` has come; raises sqlite3.Error."""
    with _opened(path) as database:
        row = database.execute("SELECT value FROM meta WHERE name = 'generation'").fetchone()
        cursors = dict(database.execute("SELECT name, position FROM projector_cursor"))
        edges = database.execute("SELECT max(position) FROM stored").fetchone()[0] or 0
    newest = max([edges, *cursors.values()])
    return Extent(row[0] if row else b"", min(cursors.get(view, 0) for view in views), newest)


def copy_state(source: Path, target: Path, generation: bytes, views: Sequence[str]) -> int:
    """Copy a state that may be in use; returns up to where the copy has the log, 0 for no copy.

    The copy is as the state was at one moment, and every page of it has been looked at. One that
    is damaged or of another log than `generation` is none.
    """
    if not source.exists():
        return 0
    extent: Extent | None
    try:
        with _opened(source) as database, _opened(target) as copy:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # a file by itself
            problem = str(copy.execute("PRAGMA quick_check(1)").fetchone()[0])
        extent = extent_of(target, views)
    except sqlite3.DatabaseError as error:
        extent, problem = None, str(error)
    if extent is not None and problem == "ok":
        if extent.generation == generation:
            target.chmod(0o600)
            return extent.stored
        problem = "it was made from another log"
    log.error("%s is not in the backup: %s", source, problem)
    target.unlink(missing_ok=True)
    return 0


def copy_schema(url: sa.URL, target: Path, generation: bytes, views: Sequence[str]) -> int:
    """Do as `copy_state` does with a state in PostgreSQL; raises StateUnreadable if it is away."""
    try:
        state = open_schema_beside(url)
        if state is None:
            return 0
        with contextlib.closing(state), _new_file(target) as copy:
            state.read_now(lambda rows: _copy_rows(rows, copy), limit_s=float("inf"))
    except sa.exc.DBAPIError as error:
        if not is_damage(error):
            raise StateUnreadable(str(error.orig).strip()) from error
        problem = str(error.orig).strip()
    else:
        extent = extent_of(target, views)
        if extent.generation == generation:
            return extent.stored
        problem = "it was made from another log"
    log.error("the state in PostgreSQL is not in the backup: %s", problem)
    target.unlink(missing_ok=True)
    return 0


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[sa.Connection]:
    """Make empty tables in a file, to be filled at once."""
    engine = open_sqlite(path, pragmas=QUICK)
    try:
        with engine.connect() as connection, connection.begin():
            path.chmod(0o600)
            upgrade(connection, path)
            yield connection
    finally:
        engine.dispose()


def _copy_rows(source: sa.Connection, copy: sa.Connection) -> None:
    """Copy all rows of one moment."""
    rows_of = _rows_of(source)
    for table in tables.metadata.sorted_tables:
        for rows in rows_of(table):
            copy.execute(table.insert(), rows)
    meta = tables.meta
    copy.execute(meta.delete().where(meta.c.name.in_(OF_SCHEMA)))


def adopt(path: Path, generation: bytes) -> None:
    """Bring a copy up to date, of a log that goes on under another generation.

    Raises StoreVersion for one of a newer version.
    """
    engine, meta = open_sqlite(path), tables.meta
    try:
        with engine.connect() as connection, connection.begin():
            upgrade(connection, path)
            connection.execute(
                meta.update().where(meta.c.name == "generation").values(value=generation)
            )
    finally:
        engine.dispose()


def put_back(
    source: Path,
    path: Path,
    lives: dict[bytes, int],
    oldest: int,
    views: Sequence[str],
    *,
    into: tuple[sa.URL, Hub] | None = None,
) -> int:
    """Put a copy in the place of the state in `path`, which is kept beside; raises StateRefused.

    lives    the generations of the log, and up to where it went in each; the present one last
    oldest   its oldest entry
    into     the database where the state is instead, and whose it is: the one that is there is kept

    Returns up to where the copy has the log. Raises StoreVersion for a copy of a newer version.
    """
    try:
        extent = extent_of(source, views)
    except sqlite3.Error as error:
        raise StateRefused(f"{source} is no state of a hub: {error}") from error
    if extent.newest > lives.get(extent.generation, -1):
        raise StateRefused(f"{source} was made from another log than this hub's")
    if extent.stored + 1 < oldest:
        raise StateRefused(
            f"{source} has the log up to {extent.stored}, and this log begins at {oldest}: what "
            "lies between would be missing; take a newer backup"
        )
    generation = next(reversed(lives))
    draft = path.with_name(f"{path.name}{DRAFT}")
    shutil.copy2(source, draft)
    adopt(draft, generation)
    if into is not None:
        load_copy(draft, *into, generation)
        draft.unlink()
        return extent.stored
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        path.replace(path.with_name(f"{path.name}{ASIDE}"))
    forget_wal(path)
    draft.replace(path)
    return extent.stored


def load_copy(source: Path, url: sa.URL, hub: Hub, generation: bytes) -> None:
    """Put a copy that was adopted into a database, all at once: the next schema there.

    Raises DatabaseTaken, HubHeld and StoreVersion.
    """
    engine = open_sqlite(source)
    try:
        with engine.connect() as connection, connection.begin():
            load_schema(url, hub, generation, _rows_of(connection))
    finally:
        engine.dispose()


def _rows_of(connection: sa.Connection) -> RowsOf:
    """Return what gives the rows of a table, some at a time, as they are at one moment."""
    connection.execution_options(stream_results=True, yield_per=ROWS_TOGETHER)

    def rows_of(table: sa.Table) -> Iterator[Sequence[Mapping[str, Any]]]:
        for rows in connection.execute(table.select()).mappings().partitions():
            yield [dict(row) for row in rows]

    return rows_of


def forget_wal(path: Path) -> None:
    """Remove what a state that was in `path` left behind: it would be read as the next one's."""
    for suffix in WAL:
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
