"""The tables of the state, wherever they are: one writer, several readers, a new life when lost."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec
import sqlalchemy as sa
import trio

from hubd.db.faults import Fault, fault_of, is_lost
from hubd.db.limits import stopping_when
from hubd.state.damage import StateDamaged, is_damage
from hubd.state.fresh import AFTER, OPTION, Fresh

log = logging.getLogger(__name__)
T = TypeVar("T")
# What a transaction does to rows.
Change: TypeAlias = Callable[[sa.Connection], None]

READERS: Final = 4
READ_LIMIT_S: Final = 5.0
# A whole pass over the tables: what rotted where nobody asks is found within a day.
SCRUB_EVERY_S: Final = 86400.0
# Between two new beginnings: a disk that rots at once is not written to without end.
REBUILD_PAUSES_S: Final = (0.0, 5.0, 60.0, 600.0)
REBUILDS_FORGOTTEN_S: Final = 3600.0


class QueryTooSlow(Exception):
    """The read was stopped at its time limit; a narrower question would be answered."""


class StateAway(Exception):
    """The tables cannot be reached for now; the log has all of it."""


class StateReplaced(Exception):
    """The state was made anew: what was known of it does not hold any more."""


# What a question may end with, whatever is asked: the state cannot be read for now.
UNREADABLE: Final = (sa.exc.DatabaseError, StateAway, StateDamaged, QueryTooSlow)


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


class Engines(NamedTuple):
    writer: sa.Engine
    reader: sa.Engine

    def dispose(self) -> None:
        self.writer.dispose()
        self.reader.dispose()


class Home(Protocol):
    """Where the tables are: a file of SQLite, a schema of PostgreSQL.

    name           for people; there is no password in it
    checks         whether `problem` finds what the database does not find by itself
    write_limit_s  after so long a change is given up: nobody answers
    """

    name: str
    checks: bool
    write_limit_s: float

    def open(self, renew: str = "") -> Engines:
        """Open tables that were made from our log: those that are there, or new ones.

        renew   why those that are there are to be left
        """
        ...

    def problem(self, connection: sa.Connection) -> str:
        """Look through all that is stored; return what is damaged, "" for nothing."""
        ...

    def tidy(self) -> None:
        """Remove what was left behind by those that were replaced."""
        ...


class State:
    """Hands out transactions; every function given to it runs in a worker thread.

    life       counts new beginnings: what a caller remembers is of one of them
    rebuilds   how often the tables were damaged and made anew since they were opened
    fresh      what the log holds and the rows do not, in memory (`fresh_of` gives it to questions)

    A database may lose the newest commits when its connection is lost, or have one whose reply was
    lost: nobody can know. So a life ends with the connection of the writer, too, and who follows
    the log begins again where the tables say (I9).
    """

    def __init__(self, home: Home) -> None:
        self.name = home.name
        self.life = 1
        self.rebuilds = 0
        self.last_rebuild: Rebuild | None = None
        self.fresh = Fresh()
        # Held while a change of rows and memory becomes visible, and while a view of both begins.
        self._moment = threading.Lock()
        self._home = home
        self._engines: Engines | None = None
        self._away: Exception = StateAway("not opened yet")
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS)
        self._damaged = trio.Event()
        self._replaced = trio.Event()
        self._damage = ""
        self._writes_since: float | None = None

    def open(self, *, renew: str = "") -> None:
        """Open the tables; `renew` is why those that are there are to be replaced by empty ones."""
        self._close()
        try:
            self._engines = self._home.open(renew)
        except Exception as error:
            self._away = error
            raise

    @property
    def engines(self) -> Engines:
        """The engines of the tables that are open; raises StateAway."""
        if self._engines is None:
            raise StateAway(_problem(self._away)) from self._away
        return self._engines

    def _opened_again(self) -> Engines:
        try:
            self.open()
        except Exception as error:
            raise StateAway(_problem(error)) from error
        return self.engines

    async def write(self, change: Callable[[sa.Connection], T], *, life: int | None = None) -> T:
        """Run `change` in one transaction; commits when it returns, undoes it all if it raises.

        Being cancelled undoes it, too, within moments: a hub that stops waits for nothing large.

        Raises StateReplaced, and does nothing, when `life` is over.
        """

        def carry_out() -> T:
            if life not in (None, self.life):
                raise StateReplaced
            self._writes_since = time.monotonic()
            try:
                return self.write_now(change, is_over=is_over)
            finally:
                self._writes_since = None

        def is_over() -> bool:
            return self.writes_for_s > self._home.write_limit_s or _is_cancelled()

        before = self.life
        try:
            return await trio.to_thread.run_sync(carry_out, limiter=self._writer)
        except Exception as error:
            if self.life != before:
                self._wake()
            elif is_damage(error) and life in (None, self.life):
                self.report_damage(error)
            raise

    @property
    def writes_for_s(self) -> float:
        """For how long the database has been at a change, 0 if it is at none."""
        since = self._writes_since
        return 0.0 if since is None else time.monotonic() - since

    async def read(
        self, question: Callable[[sa.Connection], T], *, limit_s: float | None = None
    ) -> T:
        """Run `question` on one unchanging view; raises QueryTooSlow after `READ_LIMIT_S`."""
        life = self.life
        ask = functools.partial(self.read_now, question, limit_s=limit_s)
        try:
            return await trio.to_thread.run_sync(ask, limiter=self._readers)
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
        engines = self._engines or self._opened_again()
        try:
            with (
                engines.writer.connect().execution_options(**options) as connection,
                stopping_when(connection, is_over),
                connection.begin() as transaction,
            ):
                result = change(connection)
                with self._moment:
                    transaction.commit()
                    for follow_up in then:
                        follow_up()
                return result
        except sa.exc.DBAPIError as error:
            if is_lost(error):
                self._lose(error)
            if is_over is not None and fault_of(error) is Fault.STOPPED:
                trio.from_thread.check_cancelled()  # that was why
            raise

    def _lose(self, error: Exception) -> None:
        """Take in that the writer's connection is gone: rows may be other ones when it is back."""
        log.warning("state %s: the connection was lost: %s", self.name, _problem(error))
        self._away = error
        self._close()
        with self._moment:
            self.fresh = Fresh()
            self.life += 1

    def read_now(
        self, question: Callable[[sa.Connection], T], *, limit_s: float | None = None
    ) -> T:
        limit_s = READ_LIMIT_S if limit_s is None else limit_s
        ends_at = time.monotonic() + limit_s
        return self._read_until(question, lambda: time.monotonic() > ends_at, limit_s)

    def _read_until(
        self,
        question: Callable[[sa.Connection], T],
        is_over: Callable[[], bool],
        limit_s: float,
    ) -> T:
        try:
            with (
                self.engines.reader.connect() as connection,
                stopping_when(connection, is_over),
                connection.begin(),
            ):
                self._fix_view(connection, limit_s)
                return question(connection)
        except sa.exc.DBAPIError as error:
            if fault_of(error) is Fault.STOPPED:
                raise QueryTooSlow("the question takes too long") from error
            raise

    def _fix_view(self, connection: sa.Connection, limit_s: float) -> None:
        """Let `connection` see rows and memory of one moment."""
        if not self._moment.acquire(timeout=min(limit_s, threading.TIMEOUT_MAX)):
            raise QueryTooSlow("a commit takes too long")
        try:
            connection.exec_driver_sql("SELECT 1 FROM meta LIMIT 1").all()
            connection.execution_options(**{OPTION: self.fresh.view()})
        finally:
            self._moment.release()

    # -- damage ------------------------------------------------------------------------------

    @staticmethod
    def is_damage(error: BaseException) -> bool:
        return is_damage(error)

    @property
    def is_damaged(self) -> bool:
        """Whether damage is known and the tables are not made anew yet."""
        return self._damaged.is_set()

    def report_damage(self, error: BaseException) -> StateDamaged:
        """Have the tables made anew by `keep_whole`; call it from Trio's thread."""
        self._damage = self._damage or _problem(error)
        self._damaged.set()
        return StateDamaged(self._damage)

    async def replaced(self, life: int) -> None:
        """Return once `life` is over."""
        while self.life == life:
            await self._replaced.wait()
        await trio.lowlevel.checkpoint()

    async def keep_whole(self) -> None:
        """Until cancelled, look for damage, leave damaged tables and begin empty ones."""
        async with trio.open_nursery() as nursery:
            if self._home.checks:
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
                except Exception as error:
                    if not isinstance(error, OSError | StateDamaged) and fault_of(error) is None:
                        raise
                    text = "%s is damaged and cannot be made anew: %s"
                    log.error(text, self.name, _problem(error))
                else:
                    await trio.to_thread.run_sync(self._home.tidy, limiter=self._writer)

    def _replace(self) -> None:
        reason = self._damage
        self.open(renew=reason)
        self.fresh = Fresh()
        trio.from_thread.run_sync(self.note_rebuild, reason)

    def note_rebuild(self, reason: str) -> None:
        """Begin a new life of the state."""
        self.rebuilds += 1
        self.last_rebuild = Rebuild(time.time_ns(), reason)
        self._damage = ""
        self._damaged = trio.Event()
        self.life += 1
        self._wake()

    def _wake(self) -> None:
        """Have those go on who wait for the end of a life."""
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
            except UNREADABLE as error:
                if is_damage(error) and self.life == life:
                    self.report_damage(error)
            finally:
                is_over.set()
            await trio.sleep(SCRUB_EVERY_S)

    def _scrub(self, is_over: Callable[[], bool]) -> None:
        """Raise StateDamaged if what is stored is not what it can be."""
        if problem := self._read_until(self._home.problem, is_over, float("inf")):
            raise StateDamaged(problem)

    def close(self) -> None:
        self._close()

    def _close(self) -> None:
        engines, self._engines = self._engines, None
        if engines is not None:
            engines.dispose()


def _problem(error: BaseException) -> str:
    """Return what went wrong, in the words of the database."""
    return str(getattr(error, "orig", None) or error).strip()
