"""The database behind the state: one writer, several readers, brought up to date when opened."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import trio
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from edgesync.errors import StoreCorrupt, StoreUnwritable, StoreVersion
from hubd.state import tables

log = logging.getLogger(__name__)
T = TypeVar("T")

# NORMAL: a power cut may take the newest commits, never part of one. What it takes is projected
# again from the log, whose own commits are synced; FULL would cost a sync per projected chunk.
PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "busy_timeout = 5000",
    "temp_store = MEMORY",
    "cache_size = -16384",  # KiB
    "journal_size_limit = 67108864",
)
READERS: Final = 4
READ_LIMIT_S: Final = 5.0
# Instructions of SQLite's machine between two looks at the clock: about 0.1 ms.
STEPS_BETWEEN_CHECKS: Final = 20_000


class QueryTooSlow(Exception):
    """The read was stopped at its time limit; a narrower question would be answered."""


class State:
    """Hands out transactions; every function given to it runs in a worker thread."""

    def __init__(self, engine: sa.Engine, path: str) -> None:
        self.path = path
        self._engine = engine
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS)

    async def write(self, change: Callable[[sa.Connection], T]) -> T:
        """Run `change` in one transaction; commits when it returns, undoes it all if it raises."""
        return await trio.to_thread.run_sync(self.write_now, change, limiter=self._writer)

    async def read(self, question: Callable[[sa.Connection], T]) -> T:
        """Run `question` on one unchanging view; raises QueryTooSlow after `READ_LIMIT_S`."""
        return await trio.to_thread.run_sync(self.read_now, question, limiter=self._readers)

    def write_now(self, change: Callable[[sa.Connection], T]) -> T:
        connection = self._engine.connect().execution_options(writes=True)
        with connection, connection.begin():
            return change(connection)

    def read_now(self, question: Callable[[sa.Connection], T]) -> T:
        ends_at = time.monotonic() + READ_LIMIT_S
        with self._engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.set_progress_handler(lambda: time.monotonic() > ends_at, STEPS_BETWEEN_CHECKS)
            try:
                with connection.begin():
                    return question(connection)
            except sa.exc.OperationalError as error:
                if "interrupted" in str(error.orig):
                    raise QueryTooSlow("the question takes too long") from error
                raise
            finally:
                raw.set_progress_handler(None, 0)

    def close(self) -> None:
        self._engine.dispose()


def open_state(path: Path, generation: bytes, head: int | None = None) -> State:
    """Open the state that was made from the log `generation`, or begin an empty one.

    A state made from another log (the hub was restored from a backup), or that knows more than the
    log up to `head` holds, is moved aside and made anew: positions meant other batches there.

    Raises StoreCorrupt, StoreVersion or StoreUnwritable.
    """
    try:
        state = _open(path)
        if _belongs(state, generation, head):
            return state
        state.close()
        aside = _move_aside(path)
        log.warning("%s was made from another log: kept as %s, made anew", path, aside)
        state = _open(path)
        _belongs(state, generation, head)
    except sa.exc.DatabaseError as error:
        raise _store_error(path, error) from error
    return state


def _open(path: Path) -> State:
    engine = _make_engine(path)
    try:
        connection = engine.connect().execution_options(writes=True)
        with connection, connection.begin():
            _upgrade(connection, path)
    except BaseException:
        engine.dispose()
        raise
    path.chmod(0o600)
    return State(engine, str(path))


def _make_engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},  # the pool gives one to one thread at a time
        pool_size=READERS + 1,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def configure(raw: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own idea of when a transaction begins leaves reads without one.
        raw.isolation_level = None
        for pragma in PRAGMAS:
            raw.cursor().execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _upgrade(connection: sa.Connection, path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        # A revision this hub does not have: the file was written by a newer one.
        known = len(list(ScriptDirectory.from_config(config).walk_revisions()))
        raise StoreVersion(path=str(path), found=known + 1, known=known) from error


def _belongs(state: State, generation: bytes, head: int | None) -> bool:
    """Whether the state was made from that log; a state without a past is claimed for it."""
    cursor = sa.func.max(tables.projector_cursor.c.position)

    def claim(connection: sa.Connection) -> bool:
        meta = tables.meta
        found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "generation"))
        if found is None:
            connection.execute(meta.insert().values(name="generation", value=generation))
        is_ahead = head is not None and (connection.scalar(sa.select(cursor)) or 0) > head
        return found in (None, generation) and not is_ahead

    return state.write_now(claim)


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm"):  # closing the last connection emptied them
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.rename(path, aside)
    return aside


def _store_error(path: Path, error: sa.exc.DatabaseError) -> Exception:
    problem = str(error.orig)
    if isinstance(error, sa.exc.OperationalError):
        return StoreUnwritable(path=str(path), problem=problem)
    return StoreCorrupt(path=str(path), problem=f"{problem} (all of it is also in the log)")
