"""Opening engines of SQLAlchemy. A transaction that writes says so with `writes=True`.

    with engine.connect().execution_options(writes=True) as connection, connection.begin(): ...

One that writes is alone from its beginning: on SQLite by BEGIN IMMEDIATE, on PostgreSQL by an
advisory lock of the schema, which it waits for up to `busy_s`. All others see one moment.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from edgesync.errors import ConfigError

BUSY_S: Final = 5.0
CONNECT_S: Final = 5
# A server or a line that is gone without a word is noticed within about half a minute, by both.
KEEPALIVE: Final = {
    "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}  # fmt: skip
SESSION: Final = (
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 25000",
    # Of a client that is gone, a statement that runs is given up; without it, only when it ends.
    "SET client_connection_check_interval = 1000",
    "SET idle_in_transaction_session_timeout = 60000",
)
# The class of our advisory locks; the other half of their key is a hash of the schema's name.
WRITER_LOCK: Final = 0x65535753  # "eSWS"


class _Pool(sa.QueuePool):
    """A pool that keeps nothing once it is disposed of: what comes back later is closed."""

    _is_over = False

    def dispose(self) -> None:
        self._is_over = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        if self._is_over:
            super().dispose()


@contextmanager
def _closed_if_it_fails(raw: DBAPIConnection) -> Iterator[None]:
    """Close a connection that could not be made ready: SQLAlchemy just drops it."""
    try:
        yield
    except BaseException:
        raw.close()
        raise


def open_sqlite(
    path: Path, *, pragmas: Sequence[str] = (), pool_size: int = 1, busy_s: float = BUSY_S
) -> sa.Engine:
    """Return an engine over the file `path`, which is made when it is first used."""
    engine = sa.create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},  # the pool gives one to one thread at a time
        poolclass=_Pool,
        pool_size=pool_size,
        max_overflow=0,
    )
    statements = (f"busy_timeout = {round(busy_s * 1000)}", *pragmas)

    @event.listens_for(engine, "connect")
    def configure(raw: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own idea of when a transaction begins leaves reads without one.
        raw.isolation_level = None
        with _closed_if_it_fails(raw):
            try:
                for pragma in statements:
                    raw.cursor().execute(f"PRAGMA {pragma}")
            except UnicodeDecodeError as error:  # of a message that quotes a rotten schema
                damage = sqlite3.DatabaseError("the schema is no text")
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage from error

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def parse_url(
    text: str, password_file: Path | None = None, *, field: str = "state.database"
) -> sa.URL:
    """Return the URL of a PostgreSQL database; raises ConfigError, which never quotes it.

    password_file   holds the password alone; without it libpq looks into PGPASSWORD and PGPASSFILE
    """

    def mistake(problem: str, remedy: str) -> ConfigError:
        return ConfigError(file="hub.toml", field=field, problem=problem, remedy=remedy)

    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        url = sa.URL.create("none")
    if url.drivername not in ("postgresql", "postgres"):
        remedy = "one such as postgresql://hub@db.example.org/edgesync"
        raise mistake("is not the URL of a PostgreSQL database", remedy)
    if unknown := sorted(set(url.query) - _parameters(url.query)):
        remedy = "those of libpq are in PostgreSQL's manual, under Parameter Key Words"
        raise mistake(f"has parameters that there are not: {', '.join(unknown)}", remedy)
    # They would be shown with the rest; libpq has `sslpassword`, too, and secrets of OAuth.
    if any("password" in name or "secret" in name for name in url.query):
        raise mistake("has the password among the parameters", "put it into a file")
    if password_file is not None:
        try:
            password = password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise mistake(f"has no password: {error}", "see that hubd can read it") from None
        url = url.set(password=password)
    return url.set(drivername="postgresql+psycopg")


def _parameters(wanted: Iterable[str]) -> set[str]:
    """Return the names that libpq knows; all that are `wanted` where it is not installed."""
    try:
        from psycopg import pq
    except ImportError:
        return set(wanted)
    return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


def shown(url: sa.URL) -> str:
    """Return the URL as it may be told: without the password."""
    return sa.URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, url.query
    ).render_as_string()


def open_postgresql(
    url: sa.URL,
    schema: str,
    *,
    application: str = "hubd",
    session: Sequence[str] = (),
    pool_size: int = 1,
    busy_s: float = BUSY_S,
) -> sa.Engine:
    """Return an engine whose tables are in `schema`; nothing is connected before it is used.

    application   as the server lists the connections
    session       what every connection begins with, beside SESSION

    Raises ConfigError when the driver is not installed.
    """
    try:
        from hubd.db.postgresql import StoppableConnection
    except ImportError as error:
        raise ConfigError(
            file="hub.toml", field="database", problem=f"PostgreSQL needs psycopg ({error})",
            remedy="pip install 'edgesync[postgresql]'",
        ) from error  # fmt: skip
    engine = sa.create_engine(
        url,
        connect_args={"connect_timeout": CONNECT_S, "application_name": application, **KEEPALIVE},
        isolation_level="REPEATABLE READ",
        poolclass=_Pool,
        pool_size=pool_size,
        pool_timeout=CONNECT_S,
        max_overflow=0,
    )
    statements = ";".join((
        *SESSION,
        f"SET search_path = {quoted(schema)}",
        f"SET lock_timeout = {round(busy_s * 1000)}",
        *session,
    ))  # fmt: skip

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _entry: Any, args: Any, parameters: dict[str, Any]) -> Any:
        return StoppableConnection.connect(*args, **parameters)

    @event.listens_for(engine, "connect")
    def configure(raw: Any, _entry: ConnectionPoolEntry) -> None:
        with _closed_if_it_fails(raw):
            raw.execute(statements)
            raw.commit()

    alone = (
        # The lock is the first to be asked for, so that all it sees is of when it was alone.
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
        f"SELECT pg_advisory_xact_lock({WRITER_LOCK}, hashtext({literal(schema)}))"
    )

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql(alone)

    return engine


def quoted(name: str) -> str:
    """Return a name of PostgreSQL as it stands in a statement."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as it stands in a statement of PostgreSQL."""
    return "'" + text.replace("'", "''") + "'"
