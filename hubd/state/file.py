"""Derived state in an SQLite file, which is moved aside when it is damaged or of another log."""

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from edgesync.errors import StoreUnwritable, StoreVersion
from hubd.db.engine import open_sqlite
from hubd.db.migrations import Migrations
from hubd.state.damage import StateDamaged, is_damage
from hubd.state.database import READERS, Engines, State
from hubd.state.origin import Origin, foreign_reason

log = logging.getLogger(__name__)

MIGRATIONS: Final = Migrations(Path(__file__).parent / "migrations")

# NORMAL: a power cut may take the newest commits, never part of one. What it takes is projected
# again from the log, whose own commits are synced; FULL would cost a sync per projected chunk.
PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "temp_store = MEMORY",
    "cache_size = -16384",  # KiB
    "journal_size_limit = 67108864",
)


def open_state(path: Path, generation: bytes, head: Callable[[], int] | None = None) -> State:
    """Open the state that was made from the log `generation`, or begin an empty one.

    A state made from another log (the hub was restored from a backup), or that knows more than the
    log up to `head` holds, is moved aside and made anew: positions meant other batches there. So is
    one that is damaged.

    Raises StoreVersion or StoreUnwritable.
    """
    home = StateFile(path, Origin(generation, head))
    state, reason = State(home), ""
    try:
        try:
            state.open()
        except (sa.exc.DatabaseError, StateDamaged) as error:
            if not _is_damaged_at_start(error):
                raise
            reason = str(getattr(error, "orig", None) or error)
            state.open(renew=reason)
    except sa.exc.DatabaseError as error:
        raise StoreUnwritable(path=str(path), problem=str(error.orig)) from error
    if reason:
        state.note_rebuild(reason)
    return state


def open_beside(path: Path) -> State:
    """Open a state to read from, as it is: the hub that keeps it may be running."""
    state = State(StateFile(path, None))
    state.open()
    return state


class StateFile:
    """Where the tables are. Without `origin` they are only read."""

    checks = True
    write_limit_s = float("inf")

    def __init__(self, path: Path, origin: Origin | None) -> None:
        self.name = str(path)
        self._path = path
        self._origin = origin

    def open(self, renew: str = "") -> Engines:
        if self._origin is None:
            return self._engines()
        if renew:
            aside = _rename(self._path, self._path.with_name(f"{self._path.name}.damaged"))
            log.error(
                "%s is damaged (%s): kept as %s, made anew from the log", self.name, renew, aside
            )
        engines, reason = self._open_ours(self._origin)
        if reason:
            engines.dispose()
            aside = _move_aside(self._path)
            log.warning("%s %s: kept as %s, made anew", self.name, reason, aside)
            engines, _ = self._open_ours(self._origin)
        return engines

    def _open_ours(self, origin: Origin) -> tuple[Engines, str]:
        engines = self._engines()
        try:
            connection = engines.writer.connect().execution_options(writes=True)
            with connection, connection.begin():
                upgrade(connection, self._path)
                reason = foreign_reason(connection, origin)
        except BaseException:
            engines.dispose()
            raise
        self._path.chmod(0o600)
        return engines, reason

    def _engines(self) -> Engines:
        # Readers, the writer, and who looks for damage.
        engine = open_sqlite(self._path, pragmas=PRAGMAS, pool_size=READERS + 2)
        return Engines(engine, engine)

    def problem(self, connection: sa.Connection) -> str:
        """Look at every page of the file; return what is wrong with the first that is damaged."""
        found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        return "" if found == "ok" else found

    def tidy(self) -> None:
        pass


def _is_damaged_at_start(error: Exception) -> bool:
    """Also tables that are there and should not be, or the other way round."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return is_damage(error) or code == sqlite3.SQLITE_ERROR


def upgrade(connection: sa.Connection, path: Path) -> None:
    """Bring the tables in a file up to date, or make them; raises StoreVersion, StateDamaged."""
    found = MIGRATIONS.revision_of(connection)
    if found == MIGRATIONS.newest:
        return
    try:
        MIGRATIONS.upgrade(connection, MIGRATIONS.newest)
    except LookupError as error:
        if not (found.isascii() and found.isdigit()):
            raise StateDamaged(f"its format is {found!r}") from error
        # A revision this hub does not have: the file was written by a newer one.
        known = int(MIGRATIONS.newest)
        raise StoreVersion(path=str(path), found=known + 1, known=known) from error


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return _rename(path, aside)


def _rename(path: Path, aside: Path) -> Path:
    """Keep a file under another name; of damaged ones the newest: they may not fill a disk."""
    for suffix in ("-wal", "-shm"):  # of a sound file, closing the last connection emptied them
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(path, aside)
    return aside
