"""The database behind the state: one writer, several readers, brought up to date when opened."""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
import trio
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from edgesync.errors import StoreUnwritable, StoreVersion
from hubd.state import tables
from hubd.state.damage import StateDamaged, is_damage
from hubd.state.fresh import AFTER, OPTION, Fresh

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


# A whole pass over the file: what rotted where nobody asks is found within a day.
SCRUB_EVERY_S: Final = 86400.0
# Between two new beginnings: a disk that rots at once is not written to without end.
REBUILD_PAUSES_S: Final = (0.0, 5.0, 60.0, 600.0)
REBUILDS_FORGOTTEN_S: Final = 3600.0


class QueryTooSlow(Exception):
    """The read was stopped at its time limit; a narrower question would be answered."""


class StateReplaced(Exception):
    """The state was made anew: what was known of it does not hold any more."""


class Rebuild(msgspec.Struct, frozen=True):
    """The newest new beginning since this process has started."""

    at_ns: int
    reason: str


def _is_cancelled() -> bool:
    """Whether the task that this thread works for has been cancelled."""
    try:
        trio.from_thread.check_cancelled()
    except trio.Cancelled:
        return True
    return False


class State:
    """Hands out transactions; every function given to it runs in a worker thread.

    life       counts new beginnings: what a caller remembers is of one of them
    rebuilds   how often the file was damaged and made anew since it was opened
    fresh      what the log holds and the rows do not, in memory (`fresh_of` gives it to questions)
    """

    def __init__(self, engine: sa.Engine, path: Path, generation: bytes) -> None:
        self.path = str(path)
        self.life = 1
        self.rebuilds = 0
        self.last_rebuild: Rebuild | None = None
        self.fresh = Fresh()
        # Held while a change of rows and memory becomes visible, and while a view of both begins.
        self._moment = threading.Lock()
        self._file = path
        self._generation = generation
        self._engine = engine
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS)
        self._damaged = trio.Event()
        self._replaced = trio.Event()
        self._damage = ""

    async def write(self, change: Callable[[sa.Connection], T], *, life: int | None = None) -> T:
        """Run `change` in one transaction; commits when it returns, undoes it all if it raises.

        Being cancelled undoes it, too, within moments: a hub that stops waits for nothing large.

        Raises StateReplaced, and does nothing, when `life` is over.
        """

        def carry_out() -> T:
            if life not in (None, self.life):
                raise StateReplaced
            return self.write_now(change, is_over=_is_cancelled)

        try:
            return await trio.to_thread.run_sync(carry_out, limiter=self._writer)
        except Exception as error:
            if is_damage(error) and life in (None, self.life):
                self.report_damage(error)
            raise

    async def read(self, question: Callable[[sa.Connection], T]) -> T:
        """Run `question` on one unchanging view; raises QueryTooSlow after `READ_LIMIT_S`."""
        life = self.life
        try:
            return await trio.to_thread.run_sync(self.read_now, question, limiter=self._readers)
        except Exception as error:
            if is_damage(error) and self.life == life:  # else it met a file that is gone
                self.report_damage(error)
            raise

    def write_now(
        self, change: Callable[[sa.Connection], T], *, is_over: Callable[[], bool] | None = None
    ) -> T:
        """Commit what `change` does to rows, and then what it gave to `after_commit`."""
        then: list[Callable[[], None]] = []
        options: dict[str, Any] = {"writes": True, OPTION: self.fresh, AFTER: then}
        with self._engine.connect().execution_options(**options) as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
            try:
                with connection.begin() as transaction:
                    result = change(connection)
                    with self._moment:
                        transaction.commit()
                        for follow_up in then:
                            follow_up()
                    return result
            except sa.exc.OperationalError:
                if is_over is not None:
                    trio.from_thread.check_cancelled()  # that was why
                raise
            finally:
                raw.set_progress_handler(None, 0)

    def read_now(
        self, question: Callable[[sa.Connection], T], *, limit_s: float | None = None
    ) -> T:
        ends_at = time.monotonic() + (READ_LIMIT_S if limit_s is None else limit_s)
        return self._read_until(question, lambda: time.monotonic() > ends_at)

    def _read_until(self, question: Callable[[sa.Connection], T], is_over: Callable[[], bool]) -> T:
        with self._engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
            try:
                with connection.begin():
                    self._fix_view(connection)
                    return question(connection)
            except sa.exc.OperationalError as error:
                if "interrupted" in str(error.orig):
                    raise QueryTooSlow("the question takes too long") from error
                raise
            finally:
                raw.set_progress_handler(None, 0)

    def _fix_view(self, connection: sa.Connection) -> None:
        """Let `connection` see rows and memory of one moment."""
        with self._moment:
            connection.exec_driver_sql("SELECT 1 FROM meta LIMIT 1").all()
            connection.execution_options(**{OPTION: self.fresh.view()})

    # -- damage ------------------------------------------------------------------------------

    @staticmethod
    def is_damage(error: BaseException) -> bool:
        return is_damage(error)

    @property
    def is_damaged(self) -> bool:
        """Whether damage is known and the file is not made anew yet."""
        return self._damaged.is_set()

    def report_damage(self, error: BaseException) -> StateDamaged:
        """Have the file made anew by `keep_whole`; call it from Trio's thread."""
        self._damage = self._damage or str(getattr(error, "orig", None) or error)
        self._damaged.set()
        return StateDamaged(self._damage)

    async def replaced(self, life: int) -> None:
        """Return once `life` is over."""
        while self.life == life:
            await self._replaced.wait()
        await trio.lowlevel.checkpoint()

    async def keep_whole(self) -> None:
        """Until cancelled, look for damage, move a damaged file aside and begin an empty one."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_scrubbing)
            recent = 0
            while True:
                await self._damaged.wait()
                last = self.last_rebuild
                if last and time.time_ns() - last.at_ns > REBUILDS_FORGOTTEN_S * 1e9:
                    recent = 0
                await trio.sleep(REBUILD_PAUSES_S[min(recent, len(REBUILD_PAUSES_S) - 1)])
                recent += 1
                try:
                    await trio.to_thread.run_sync(self._replace, limiter=self._writer)
                except (OSError, sa.exc.DatabaseError) as error:
                    log.error("%s is damaged and cannot be made anew: %s", self.path, error)

    def _replace(self) -> None:
        self._engine.dispose()
        reason = self._damage
        move_damaged_aside(self._file, reason)
        self._engine = _open_engine(self._file)
        self.fresh = Fresh()
        self.write_now(lambda c: _claim(c, self._generation))
        trio.from_thread.run_sync(self.note_rebuild, reason)

    def note_rebuild(self, reason: str) -> None:
        """Begin a new life of the state."""
        self.life += 1
        self.rebuilds += 1
        self.last_rebuild = Rebuild(time.time_ns(), reason)
        self._damage = ""
        self._damaged = trio.Event()
        self._replaced.set()
        self._replaced = trio.Event()

    async def _keep_scrubbing(self) -> None:
        while True:
            is_over, life = threading.Event(), self.life
            limiter = trio.CapacityLimiter(1)
            try:
                await trio.to_thread.run_sync(
                    self._scrub, is_over.is_set, abandon_on_cancel=True, limiter=limiter
                )
            except (sa.exc.DatabaseError, StateDamaged, QueryTooSlow) as error:
                if is_damage(error) and self.life == life:
                    self.report_damage(error)
            finally:
                is_over.set()
            await trio.sleep(SCRUB_EVERY_S)

    def _scrub(self, is_over: Callable[[], bool]) -> None:
        """Raise StateDamaged if a page of the file is not what it can be."""

        def check(connection: sa.Connection) -> str:
            return str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())

        if (problem := self._read_until(check, is_over)) != "ok":
            raise StateDamaged(problem)

    def close(self) -> None:
        self._engine.dispose()


def open_state(path: Path, generation: bytes, head: int | None = None) -> State:
    """Open the state that was made from the log `generation`, or begin an empty one.

    A state made from another log (the hub was restored from a backup), or that knows more than the
    log up to `head` holds, is moved aside and made anew: positions meant other batches there. So is
    one that is damaged.

    Raises StoreVersion or StoreUnwritable.
    """
    reason = ""
    try:
        try:
            state = _open(path, generation)
            try:
                is_ours = state.write_now(lambda c: _belongs(c, generation, head))
            except BaseException:
                state.close()
                raise
        except (sa.exc.DatabaseError, StateDamaged) as error:
            if not _is_damaged_at_start(error):
                raise
            reason = str(getattr(error, "orig", None) or error)
        else:
            if is_ours:
                return state
            state.close()
            aside = _move_aside(path)
            log.warning("%s was made from another log: kept as %s, made anew", path, aside)
        if reason:
            move_damaged_aside(path, reason)
        state = _open(path, generation)
        state.write_now(lambda c: _claim(c, generation))
    except sa.exc.DatabaseError as error:
        raise StoreUnwritable(path=str(path), problem=str(error.orig)) from error
    if reason:
        state.note_rebuild(reason)
    return state


def open_beside(path: Path) -> State:
    """Open a state to read from, as it is: the hub that keeps it may be running."""
    return State(_make_engine(path), path, b"")


def _is_damaged_at_start(error: Exception) -> bool:
    """Also tables that are there and should not be, or the other way round."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return is_damage(error) or code == sqlite3.SQLITE_ERROR


def _open(path: Path, generation: bytes) -> State:
    return State(_open_engine(path), path, generation)


def _open_engine(path: Path) -> sa.Engine:
    engine = _make_engine(path)
    try:
        connection = engine.connect().execution_options(writes=True)
        with connection, connection.begin():
            _upgrade(connection, path)
    except BaseException:
        engine.dispose()
        raise
    path.chmod(0o600)
    return engine


def _make_engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},  # the pool gives one to one thread at a time
        pool_size=READERS + 2,  # readers, the writer, and who looks for damage
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def configure(raw: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own idea of when a transaction begins leaves reads without one.
        raw.isolation_level = None
        try:
            for pragma in PRAGMAS:
                raw.cursor().execute(f"PRAGMA {pragma}")
        except UnicodeDecodeError as error:  # of a message that quotes a rotten schema
            raise StateDamaged("the schema is no text") from error

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
        found = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())
        if not (found.isascii() and found.isdigit()):
            raise StateDamaged(f"its format is {found!r}") from error
        # A revision this hub does not have: the file was written by a newer one.
        known = len(list(ScriptDirectory.from_config(config).walk_revisions()))
        raise StoreVersion(path=str(path), found=known + 1, known=known) from error


def _belongs(connection: sa.Connection, generation: bytes, head: int | None) -> bool:
    """Return whether the state was made from that log; one without a past is claimed for it."""
    found = _claim(connection, generation)
    positions = (tables.projector_cursor.c.position, tables.stored.c.position)
    known = max(connection.scalar(sa.select(sa.func.max(one))) or 0 for one in positions)
    is_ahead = head is not None and known > head
    return found == generation and not is_ahead


def _claim(connection: sa.Connection, generation: bytes) -> bytes:
    """Return the log that the state is of, `generation` if of none before."""
    meta = tables.meta
    found: bytes | None = connection.scalar(
        sa.select(meta.c.value).where(meta.c.name == "generation")
    )
    if found is None:
        connection.execute(meta.insert().values(name="generation", value=generation))
    return found or generation


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return _rename(path, aside)


def move_damaged_aside(path: Path, reason: str) -> Path:
    """Keep the newest damaged file, one only: a disk that rots may not be filled by it."""
    aside = _rename(path, path.with_name(f"{path.name}.damaged"))
    log.error("%s is damaged (%s): kept as %s, made anew from the log", path, reason, aside)
    return aside


def _rename(path: Path, aside: Path) -> Path:
    for suffix in ("-wal", "-shm"):  # of a sound file, closing the last connection emptied them
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(path, aside)
    return aside
