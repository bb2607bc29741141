"""The database of owned state: `registry.db` in the hub's folder, or PostgreSQL by URL.

The daemon and commands beside it use it at once; a change is on the disk when it returns.
"""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy as sa

from edgesync.errors import StoreVersion
from hubd.db import engine as engines
from hubd.db.faults import Fault, fault_of, is_missing
from hubd.db.limits import stopping_when
from hubd.db.migrations import VERSION
from hubd.db.upkeep import empty_wal
from hubd.errors import OwnedBusy, OwnedNewer, OwnedReplaced, OwnedUnusable
from hubd.owned import tables
from hubd.owned.migrate import MIGRATIONS, migrate

FILE: Final = "registry.db"
SCHEMA: Final = "edgesync"
# How long a call waits for another process that holds the database.
BUSY_S: Final = 5.0
# How long a statement may take, of a server that hangs say, and all of a transaction: on a busy
# machine many short ones take their time, and nothing hangs.
ANSWER_S: Final = 5.0
TRANSACTION_S: Final = 30.0
# FULL: an enrolment that was answered must survive a power cut (I1).
PRAGMAS: Final = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
# A change counts on by up to so much. With steps of one, two histories that part (a failover that
# loses commits, a copy that is put back) would come to the same number.
STEP_MAX: Final = 1 << 20


class Refusal(NamedTuple):
    """When and why the database took no change."""

    at_ns: int
    problem: str


class Owned:
    """Hands out transactions, one at a time, to any thread.

    All raise OwnedUnusable when the database cannot be read or written, OwnedBusy when that is
    because another process holds it.

    The database is made and migrated when it is first used, or by `prepare`. It is another one once
    it was emptied, deleted or restored: then all raise OwnedReplaced, until the one that was known
    is back.

    name      of the database, for people: a path, or a URL without its password
    file      of SQLite
    identity  of the one that is known, "" as long as none is
    refusal   of the newest change; None once one was taken
    """

    def __init__(
        self,
        engine: sa.Engine,
        name: str,
        file: Path | None = None,
        *,
        busy_s: float = BUSY_S,
        identity: str = "",
    ) -> None:
        self.name = name
        self.identity = identity
        self.refusal: Refusal | None = None
        self._engine = engine
        self._file = file
        self._busy_s = busy_s
        self._is_ready = self._was_ready = False
        self._file_id: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def prepare(self, *, to: str = "head") -> None:
        """Make and migrate the database; raises StoreVersion for one of a newer version."""
        with translated(self.name), self._alone():
            self._prepare(to)

    def erase(self) -> None:
        """Take all tables away, of a database that nobody uses: `prepare` makes it another one."""
        with self._transaction(writes=True) as connection:
            found = sa.MetaData()
            found.reflect(connection)
            found.drop_all(connection)
        self._is_ready, self.identity = False, ""

    def _prepare(self, to: str = "head") -> None:
        self._is_ready = False
        if self._file is not None:
            self._engine.dispose()  # of a file that is there no more
        if self.identity:
            self._check_known()
        migrate(self._engine, SCHEMA, self.name, self._file, to=to)
        with self._engine.connect() as connection:
            with connection.begin():
                self.identity = self.identity or _identity_in(connection)
            empty_wal(connection)  # a hub that was killed left one
        if self._file is not None:
            self._file.chmod(0o600)
        self._file_id = self._find_file_id()
        self._is_ready = self._was_ready = True

    def _prepare_again(self) -> None:
        """Take the database that is there now, as after it was put back.

        One of a newer version is as much away as one that was migrated in its place; at a start,
        where nothing is known of it yet, it is refused.
        """
        try:
            self._prepare()
        except StoreVersion as error:
            if not self._was_ready:
                raise
            raise OwnedNewer(self.name, found=error.found, known=error.known) from error

    def _check_known(self) -> None:
        """Raise OwnedReplaced, and make nothing, unless it is the database that is known."""
        if self._file is not None and self._find_file_id() is None:
            raise OwnedReplaced(self.name, "is not there")
        with self._engine.connect() as connection, connection.begin():
            self._compare(_identity_in(connection))

    def _compare(self, found: str) -> None:
        if found != self.identity:
            problem = "holds another registry than this hub's" if found else "holds no registry"
            raise OwnedReplaced(self.name, problem)

    def _check(self, connection: sa.Connection) -> None:
        """Raise OwnedReplaced, or OwnedNewer for tables that were migrated meanwhile."""
        if not self.identity:
            return
        try:
            found, revision = connection.execute(LOOK).first() or ("", "")
        except sa.exc.DBAPIError as error:
            if not is_missing(error):
                raise
            found, revision = "", ""
        try:
            self._compare(found)
        except OwnedReplaced:
            self._is_ready = False  # what is put back may be of an earlier version
            raise
        if revision > (known := MIGRATIONS.newest):
            raise OwnedNewer(self.name, found=int(revision), known=int(known))

    def _find_file_id(self) -> tuple[int, int] | None:
        """Return which file has the name of the database, None for none."""
        try:
            found = self._file.stat() if self._file else None
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """See the tables at one moment."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[sa.Connection]:
        """Change the tables, alone and all at once; what raises changes nothing."""
        counter = tables.change_counter
        try:
            with self._transaction(writes=True) as connection:
                yield connection
                step = 1 + secrets.randbelow(STEP_MAX)
                connection.execute(counter.update().values(number=counter.c.number + step))
        except OwnedBusy:
            raise
        except OwnedUnusable as error:
            self.refusal = Refusal(time.time_ns(), str(error))
            raise
        self.refusal = None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Change tables that only the hub that runs looks at: nobody has to notice.

        On disk on return as with `change`; what is in SQLite's WAL stays there, as it is often.
        """
        with self._transaction(writes=True, empties_wal=False) as connection:
            yield connection

    def change_count(self) -> int:
        """Return a number that every change raises, whichever process makes it."""
        with self.read() as connection:
            return int(connection.scalar(sa.select(tables.change_counter.c.number)) or 0)

    @contextmanager
    def _transaction(self, *, writes: bool, empties_wal: bool = True) -> Iterator[sa.Connection]:
        patience = _Patience()
        with translated(self.name, patience), self._alone():
            # SQLite goes on with a file that was deleted, and does not see one in its place.
            if not self._is_ready or self._find_file_id() != self._file_id:
                self._prepare_again()
            patience.begin()
            with (
                self._engine.connect().execution_options(writes=writes) as connection,
                stopping_when(connection, patience.is_over),
            ):
                for step in ("before_cursor_execute", "commit"):
                    sa.event.listen(connection, step, patience.renew)
                with connection.begin():
                    self._check(connection)
                    yield connection
                if writes and empties_wal:
                    # A killed hub leaves its WAL behind: a copy of registry.db without it would
                    # lock edges out and let revoked keys in again.
                    empty_wal(connection)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._busy_s):
            raise OwnedBusy(self.name)
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        self._engine.dispose()


class _Patience:
    """How long the statement that runs may take: each has a time of its own.

    waited_s   of the statement, or of the whole transaction where that is what is over
    """

    def __init__(self) -> None:
        self.waited_s = ANSWER_S
        self.begin()

    def begin(self) -> None:
        self._last_at = time.monotonic() + TRANSACTION_S
        self.renew()

    def renew(self, *_: object) -> None:
        self._ends_at = min(time.monotonic() + ANSWER_S, self._last_at)

    def is_over(self) -> bool:
        now = time.monotonic()
        self.waited_s = TRANSACTION_S if now > self._last_at else ANSWER_S
        return now > self._ends_at


LOOK: Final = sa.select(tables.identity.c.id, sa.select(VERSION.c.version_num).scalar_subquery())


def _identity_in(connection: sa.Connection) -> str:
    """Return the identity of the database, "" of one that has none."""
    if not sa.inspect(connection).has_table(tables.identity.name):
        return ""
    return connection.scalar(sa.select(tables.identity.c.id)) or ""


@contextmanager
def translated(name: str, patience: _Patience | None = None) -> Iterator[None]:
    """Raise the errors of a database as OwnedUnusable; what is a bug of ours stays as it is.

    patience   says how long was waited for what was stopped
    """
    try:
        yield
    except Exception as error:
        fault = fault_of(error)
        if fault is None or fault is Fault.BAD_DATA:
            raise
        if fault is Fault.LOCKED:
            raise OwnedBusy(name) from error
        if fault is Fault.STOPPED:
            waited_s = ANSWER_S if patience is None else patience.waited_s
            raise OwnedUnusable(name, f"did not answer within {waited_s:.0f} s") from error
        raise OwnedUnusable(name, _sentence(error)) from error


def _sentence(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def open_owned(
    folder: Path,
    url: sa.URL | None = None,
    *,
    busy_s: float = BUSY_S,
    lazily: bool = False,
    identity: str = "",
) -> Owned:
    """Open the owned state of the hub in `folder`, or at `url`; made and migrated if need be.

    lazily    when it is first used: whoever opens it goes on while the database is away
    identity  of the one that is known: no other is used, and none made in its place

    Raises OwnedUnusable, and StoreVersion for a database of a newer version.
    """
    if url is not None:
        engine = engines.open_postgresql(url, SCHEMA, busy_s=busy_s)
        owned = Owned(engine, engines.shown(url), busy_s=busy_s, identity=identity)
    else:
        path = folder / FILE
        engine = engines.open_sqlite(path, pragmas=PRAGMAS, busy_s=busy_s)
        owned = Owned(engine, str(path), path, busy_s=busy_s, identity=identity)
    if not lazily:
        try:
            owned.prepare()
        except BaseException:
            owned.close()
            raise
    return owned
