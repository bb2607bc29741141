"""The database of owned state: `registry.db` in the hub's folder, or PostgreSQL by URL.

The daemon and commands beside it use it at once; a change is on the disk when it returns.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from hubd.db import engine as engines
from hubd.db.faults import Fault, fault_of
from hubd.db.limits import stopping_when
from hubd.db.upkeep import empty_wal
from hubd.errors import OwnedBusy, OwnedUnusable
from hubd.owned import tables
from hubd.owned.migrate import migrate

FILE: Final = "registry.db"
SCHEMA: Final = "edgesync"
# How long a call waits for another process that holds the database.
BUSY_S: Final = 5.0
# How long all statements of one transaction may take, of a server that hangs say.
ANSWER_S: Final = 5.0
# FULL: an enrolment that was answered must survive a power cut (I1).
PRAGMAS: Final = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


class Owned:
    """Hands out transactions, one at a time, to any thread.

    All raise OwnedUnusable when the database cannot be read or written, OwnedBusy when that is
    because another process holds it.

    The database is made and migrated when it is first used, or by `prepare`.

    name   of the database, for people: a path, or a URL without its password
    file   of SQLite
    """

    def __init__(
        self, engine: sa.Engine, name: str, file: Path | None = None, *, busy_s: float = BUSY_S
    ) -> None:
        self.name = name
        self._engine = engine
        self._file = file
        self._busy_s = busy_s
        self._is_ready = False
        self._lock = threading.Lock()

    def prepare(self, *, to: str = "head") -> None:
        """Make and migrate the database; raises StoreVersion for one of a newer version."""
        with translated(self.name), self._alone():
            self._prepare(to)

    def erase(self) -> None:
        """Take all tables away, of a database that nobody uses: `prepare` makes them anew."""
        with self._transaction(writes=True) as connection:
            found = sa.MetaData()
            found.reflect(connection)
            found.drop_all(connection)
        self._is_ready = False

    def _prepare(self, to: str = "head") -> None:
        migrate(self._engine, SCHEMA, self.name, self._file, to=to)
        with self._engine.connect() as connection:
            empty_wal(connection)  # a hub that was killed left one
        if self._file is not None:
            self._file.chmod(0o600)
        self._is_ready = True

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """See the tables at one moment."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[sa.Connection]:
        """Change the tables, alone and all at once; what raises changes nothing."""
        counter = tables.change_counter
        with self._transaction(writes=True) as connection:
            yield connection
            connection.execute(counter.update().values(number=counter.c.number + 1))

    def change_count(self) -> int:
        """Return a number that every change increments, whichever process makes it."""
        with self.read() as connection:
            return int(connection.scalar(sa.select(tables.change_counter.c.number)) or 0)

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[sa.Connection]:
        with translated(self.name), self._alone():
            if not self._is_ready:
                self._prepare()
            ends_at = time.monotonic() + ANSWER_S
            with (
                self._engine.connect().execution_options(writes=writes) as connection,
                stopping_when(connection, lambda: time.monotonic() > ends_at),
            ):
                with connection.begin():
                    yield connection
                if writes:
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


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise the errors of a database as OwnedUnusable; what is a bug of ours stays as it is."""
    try:
        yield
    except Exception as error:
        fault = fault_of(error)
        if fault is None or fault is Fault.BAD_DATA:
            raise
        if fault is Fault.LOCKED:
            raise OwnedBusy(name) from error
        if fault is Fault.STOPPED:
            raise OwnedUnusable(name, f"did not answer within {ANSWER_S:.0f} s") from error
        raise OwnedUnusable(name, _sentence(error)) from error


def _sentence(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def open_owned(
    folder: Path, url: sa.URL | None = None, *, busy_s: float = BUSY_S, lazily: bool = False
) -> Owned:
    """Open the owned state of the hub in `folder`, or at `url`; made and migrated if need be.

    lazily   when it is first used: whoever opens it goes on while the database is away

    Raises OwnedUnusable, and StoreVersion for a database of a newer version.
    """
    if url is not None:
        engine = engines.open_postgresql(url, SCHEMA, busy_s=busy_s)
        owned = Owned(engine, engines.shown(url), busy_s=busy_s)
    else:
        path = folder / FILE
        engine = engines.open_sqlite(path, pragmas=PRAGMAS, busy_s=busy_s)
        owned = Owned(engine, str(path), path, busy_s=busy_s)
    if not lazily:
        try:
            owned.prepare()
        except BaseException:
            owned.close()
            raise
    return owned
