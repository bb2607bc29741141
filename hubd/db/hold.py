"""A lock that lasts as long as the connection of its holder, who can be named."""

import os
import socket
import time
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hubd.db.engine import open_postgresql
from hubd.db.faults import Fault, fault_of
from hubd.db.limits import stopping_when

# The class of our advisory locks; the other half of their key is a hash of the schema's name.
HOLD_LOCK: Final = 0x6553484F  # "eSHO"
ANSWER_S: Final = 5.0
MINE: Final = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
ALIVE: Final = "SELECT 1"
THEIRS: Final = """
SELECT application_name, backend_start FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND classid = %s AND objsubid = 2
AND objid::bigint = (hashtext(%s)::bigint & 4294967295)
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Holder(msgspec.Struct, frozen=True):
    """A process; since when it holds something, in nanoseconds since 1970 UTC."""

    host: str
    pid: int
    since_ns: int

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.since_ns // 10**9))
        return f"process {self.pid} on {self.host}, since {since} UTC"


def this_process() -> Holder:
    return Holder(socket.gethostname(), os.getpid(), time.time_ns())


def application() -> str:
    """Return how the server is to list the connections of this process."""
    return f"hubd {os.getpid()}@{socket.gethostname()}"[:63]  # it keeps no more


def wait_for_hold(connection: sa.Connection, schema: str) -> Holder | None:
    """Keep a schema for as long as `connection` lives, once nobody else does.

    Returns who still has it when the time for locks is over, else None.
    """
    key = (HOLD_LOCK, schema)
    try:
        connection.exec_driver_sql("SELECT pg_advisory_lock(%s, hashtext(%s))", key)
    except sa.exc.DBAPIError as error:
        if fault_of(error) is not Fault.LOCKED:
            raise
        connection.rollback()
        return _holder(connection.exec_driver_sql(THEIRS, key).first())
    connection.commit()
    return None


class SchemaHold:
    """Keeps a schema of PostgreSQL for this process; from one thread at a time.

    Whoever dies lets it go at once; of a machine that is gone, the server notices that within half
    a minute (`engine.SESSION`).
    """

    def __init__(self, url: sa.URL, schema: str) -> None:
        self._engine = open_postgresql(url, schema, application=application())
        self._schema = schema
        self._connection: sa.Connection | None = None

    def take(self) -> Holder | None:
        """Take it, or see that it is still ours; returns who else has it, None for nobody.

        Raises the errors of a database: then it may be anybody's.
        """
        try:
            return self._take()
        except Exception as error:
            if fault_of(error) is not None:
                self.release()
            raise

    def _take(self) -> Holder | None:
        is_new = self._connection is None
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(
                isolation_level="AUTOCOMMIT"
            )
        ends_at = time.monotonic() + ANSWER_S
        with stopping_when(self._connection, lambda: time.monotonic() > ends_at):
            if not is_new:
                self._connection.exec_driver_sql(ALIVE)
                return None
            key = (HOLD_LOCK, self._schema)
            if self._connection.exec_driver_sql(MINE, key).scalar():
                return None
            row = self._connection.exec_driver_sql(THEIRS, key).first()
        self.release()
        return _holder(row)

    def release(self) -> None:
        """Let it go, with the connection."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self.release()
        self._engine.dispose()


def _holder(row: Any) -> Holder:
    # It may have gone since, or be another role's, which we are not told of.
    name, since = row or ("", None)
    pid, _, host = (name or "").removeprefix("hubd ").partition("@")
    since_ns = int(since.timestamp() * 1e9) if since else time.time_ns()
    return Holder(host or "a machine not known", int(pid) if pid.isdigit() else 0, since_ns)
