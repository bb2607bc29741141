"""Derived state in PostgreSQL: a schema `edgesync_state_<n>`, the one with the highest number.

A schema is made in one transaction with all its tables, so one that is there is whole. When it
cannot be used (made from another log or by another version, damaged, or somebody has dropped its
tables) the next number is made, and all but the one before are dropped. No other schema is touched.

The connection of the writer holds an advisory lock as long as it lives: two hubs never write to one
database, nor does a hub while a transaction of its own, whose connection was lost, may still end.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import sqlalchemy as sa

from edgesync.errors import StoreVersion
from hubd.db.dialect import count_on, insert_rows
from hubd.db.engine import open_postgresql, quoted, shown
from hubd.db.faults import Fault, fault_of
from hubd.db.hold import application, wait_for_hold
from hubd.errors import DatabaseTaken, HubHeld
from hubd.state import tables
from hubd.state.database import READERS, Engines, State
from hubd.state.origin import Origin, foreign_reason

log = logging.getLogger(__name__)

SCHEMA: Final = "edgesync_state"
PATTERN: Final = f"^{SCHEMA}_[0-9]+$"
# The newest commits may be lost with the server; what follows the log begins again then (`State`).
WRITER: Final = ("SET synchronous_commit = off",)
READER: Final = ("SET default_transaction_read_only = on",)
LEASE_S: Final = 5.0
# Of `meta`, beside what a state in a file has there, too.
OF_SCHEMA: Final = ("format", "hub", "place")

# Gives the rows of a table, some at a time.
RowsOf: TypeAlias = Callable[[sa.Table], Iterable[Sequence[Mapping[str, Any]]]]


class Hub(msgspec.Struct, frozen=True):
    """A hub as others see it: its identity, and where it runs."""

    key: str
    place: str


class StateSchema:
    """Where the tables are. Without `origin` they are only read."""

    checks = False  # the server does, and every page of points has a checksum of ours
    write_limit_s = 120.0

    def __init__(self, url: sa.URL, hub: Hub, origin: Origin | None) -> None:
        self.name = shown(url)
        self._url = url
        self._hub = hub
        self._origin = origin
        self._current = 0

    def open(self, renew: str = "") -> Engines:
        writer = self._session()
        try:
            with writer.connect() as connection:
                if self._origin is not None:
                    self._take_lease(connection)
                    self._choose(connection, self._origin, renew)
                else:
                    self._current = max(_numbers(connection), default=0)
                connection.exec_driver_sql(f"SET search_path = {self._schema(self._current)}")
                connection.commit()
        except BaseException:
            writer.dispose()
            raise
        reader = open_postgresql(
            self._url, f"{SCHEMA}_{self._current}",
            application=application(), session=READER, pool_size=READERS,
        )  # fmt: skip
        return Engines(writer, reader)

    def load(self, rows_of: RowsOf) -> None:
        """Make the next schema, of rows that were made from our log; whole or not at all."""
        assert self._origin is not None
        writer = self._session()
        try:
            with writer.connect() as connection:
                self._take_lease(connection)
                if newest := max(_numbers(connection), default=0):
                    self._current = newest
                    self._unusable(connection, self._origin)  # which refuses another hub's
                self._current = newest + 1
                self._make(connection, self._origin, rows_of)
        finally:
            writer.dispose()

    def problem(self, connection: sa.Connection) -> str:
        return ""

    def tidy(self) -> None:
        """Drop old schemas but the newest: it may have what the log has dropped since."""
        engine = open_postgresql(self._url, SCHEMA, application=application(), busy_s=LEASE_S)
        try:
            with engine.connect() as connection:
                for number in _numbers(connection):
                    if number < self._current - 1:
                        connection.exec_driver_sql(f"DROP SCHEMA {self._schema(number)} CASCADE")
                        connection.commit()
        except sa.exc.DBAPIError as error:
            log.warning("state %s: an old schema stays for now: %s", self.name, error.orig)
        finally:
            engine.dispose()

    @property
    def is_empty(self) -> bool:
        """Whether there is no state in the database."""
        return self._current == 0

    @staticmethod
    def _schema(number: int) -> str:
        return quoted(f"{SCHEMA}_{number}")

    def _session(self) -> sa.Engine:
        """Return an engine of one connection, which is never replaced by another."""
        engine = open_postgresql(
            self._url, SCHEMA, application=application(), session=WRITER, busy_s=LEASE_S
        )
        sessions = 0

        @sa.event.listens_for(engine, "do_connect", insert=True)
        def count(*_: Any) -> None:
            nonlocal sessions
            sessions += 1
            if sessions > 1:
                raise engine.dialect.loaded_dbapi.OperationalError("the connection was lost")

        return engine

    def _take_lease(self, connection: sa.Connection) -> None:
        if (holder := wait_for_hold(connection, SCHEMA)) is not None:
            raise HubHeld(self.name, holder)

    def _choose(self, connection: sa.Connection, origin: Origin, renew: str) -> None:
        self._current = max(_numbers(connection), default=0)
        if self._current:
            reason = self._unusable(connection, origin) or renew
            if not reason:
                return
            log.warning("state %s: %s; it is made anew from the log", self.name, reason)
        self._current += 1
        self._make(connection, origin)

    def _unusable(self, connection: sa.Connection, origin: Origin) -> str:
        """Return why the current schema is to be left; raises DatabaseTaken or StoreVersion."""
        connection.exec_driver_sql(f"SET LOCAL search_path = {self._schema(self._current)}")
        try:
            rows = connection.execute(sa.select(tables.meta.c.name, tables.meta.c.value)).all()
            meta = {name: value.decode(errors="replace") for name, value in rows}
            self._check_owner(meta)
            if meta.get("format") != str(tables.FORMAT):
                return f"its tables have format {meta.get('format')}, not {tables.FORMAT}"
            return foreign_reason(connection, origin)
        except sa.exc.DBAPIError as error:
            if fault_of(error) is not Fault.DAMAGED:
                raise
            return f"it is damaged: {error.orig}"
        finally:
            connection.rollback()

    def _check_owner(self, meta: dict[str, str]) -> None:
        if (key := meta.get("hub", self._hub.key)) != self._hub.key:
            place = meta.get("place", "")
            raise DatabaseTaken(self.name, f"has the state of another hub ({key}, {place})")
        found = meta.get("format", "")
        if found.isdigit() and int(found) > tables.FORMAT:
            raise StoreVersion(path=self.name, found=int(found), known=tables.FORMAT)

    def _make(
        self, connection: sa.Connection, origin: Origin, rows_of: RowsOf | None = None
    ) -> None:
        """Make the current schema, whole or not at all, empty or of these rows."""
        schema = self._schema(self._current)
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")
        tables.metadata.create_all(connection, checkfirst=False)
        meta = {
            "generation": origin.generation, "format": str(tables.FORMAT).encode(),
            "hub": self._hub.key.encode(), "place": self._hub.place.encode(),
        }  # fmt: skip
        if rows_of is not None:
            for table in tables.metadata.sorted_tables:
                for some in rows_of(table):
                    insert_rows(connection, table, some)
                count_on(connection, table)
            connection.execute(tables.meta.delete().where(tables.meta.c.name.in_(meta)))
        rows = [{"name": name, "value": value} for name, value in meta.items()]
        connection.execute(tables.meta.insert(), rows)
        connection.commit()


def _numbers(connection: sa.Connection) -> list[int]:
    found = connection.exec_driver_sql(
        "SELECT nspname FROM pg_namespace WHERE nspname ~ %s", (PATTERN,)
    )
    return [int(name.rpartition("_")[2]) for name in found.scalars()]


def open_schema_beside(url: sa.URL) -> State | None:
    """Open a state to read from, as it is; None when there is none."""
    home = StateSchema(url, Hub("", "beside"), None)
    state = State(home)
    state.open()
    if home.is_empty:
        state.close()
        return None
    return state


def load_schema(url: sa.URL, hub: Hub, generation: bytes, rows_of: RowsOf) -> None:
    """Make the state in a database of these rows, in place of the one that is there.

    That is kept, and none before it. Raises DatabaseTaken, HubHeld or StoreVersion.
    """
    home = StateSchema(url, hub, Origin(generation))
    home.load(rows_of)
    home.tidy()


def open_schema(
    url: sa.URL, hub: Hub, generation: bytes, head: Callable[[], int] | None = None
) -> State:
    """Open the state in a database, or begin an empty one there.

    A database that is away is waited for by those who use the state.

    Raises DatabaseTaken, HubHeld or StoreVersion.
    """
    home = StateSchema(url, hub, Origin(generation, head))
    state = State(home)
    try:
        state.open()
    except sa.exc.DBAPIError as error:
        log.error("state %s is not there yet: %s", home.name, error.orig)
    else:
        home.tidy()
    return state
