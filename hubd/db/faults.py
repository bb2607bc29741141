"""What the errors of a database mean to its user, whichever database it is."""

import enum
import sqlite3
from typing import Final

import sqlalchemy as sa


class Fault(enum.Enum):
    DAMAGED = "damaged"  # it does not hold what was written, or tables are gone
    LOCKED = "locked"  # somebody else holds it
    FULL = "full"
    STOPPED = "stopped"  # by `limits.stopping_when`
    AWAY = "away"  # no connection, or a server that starts, stops or goes over to another
    REFUSED = "refused"  # read-only, no rights, a disk that fails
    BAD_DATA = "bad data"  # what was given is at fault, or what is there contradicts it


# Passes by itself or by an operator's hand; no row is to blame.
PASSING: Final = frozenset((Fault.LOCKED, Fault.FULL, Fault.STOPPED, Fault.AWAY, Fault.REFUSED))

# A page that is none; a file that ends within a page; a sector that cannot be read.
SQLITE_DAMAGE: Final = frozenset((
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS,
))  # fmt: skip
SQLITE_CODES: Final = {
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_INTERRUPT: Fault.STOPPED,
}

# By SQLSTATE, the longest beginning counts (Appendix A of PostgreSQL's manual).
STATES: Final = {
    "08": Fault.AWAY,  # connection exception
    "25006": Fault.REFUSED,  # read-only: a replica, or a server out of transaction numbers
    "28": Fault.REFUSED,  # authorisation
    "3D": Fault.REFUSED,  # no such database
    "3F": Fault.DAMAGED,  # no such schema
    "40": Fault.LOCKED,  # serialisation, deadlock
    "42501": Fault.REFUSED,  # no rights
    "42703": Fault.DAMAGED,  # no such column
    "42P01": Fault.DAMAGED,  # no such table
    "53": Fault.FULL,  # disk, memory, connections
    "55": Fault.LOCKED,
    "57": Fault.AWAY,  # shuts down, starts, has crashed
    "57014": Fault.STOPPED,
    "58": Fault.REFUSED,  # the server's own disk
    "XX000": Fault.REFUSED,
    "XX001": Fault.DAMAGED,  # data
    "XX002": Fault.DAMAGED,  # index
}


def fault_of(error: BaseException) -> Fault | None:
    """Return what an error means, None when it is none of a database."""
    if isinstance(error, sa.exc.TimeoutError):  # no connection of the pool became free
        return Fault.LOCKED
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original)
    if not (isinstance(error, sa.exc.DBAPIError) or type(original).__module__[:7] == "psycopg"):
        return None
    state = getattr(original, "sqlstate", None) or ""
    for length in (5, 2):
        if (found := STATES.get(state[:length])) is not None:
            return found
    if type(original).__name__ == "Stopped":
        return Fault.STOPPED
    if state or "OperationalError" not in {kind.__name__ for kind in type(original).__mro__}:
        is_operational = isinstance(error, sa.exc.OperationalError) and not state
        return Fault.REFUSED if is_operational else Fault.BAD_DATA
    return Fault.AWAY


def is_missing(error: BaseException) -> bool:
    """Return whether tables are not there, which may be sound otherwise."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", 0)
        return code == sqlite3.SQLITE_ERROR and _of_sqlite(original) is Fault.DAMAGED
    return getattr(original, "sqlstate", None) in ("3F000", "42P01")


def is_passing(error: BaseException) -> bool:
    """Return whether it may be otherwise later: no row is to blame."""
    return isinstance(error, MemoryError) or fault_of(error) in PASSING


def is_lost(error: BaseException) -> bool:
    """Return whether a connection is over: who knows whether what was last told it was done."""
    return fault_of(error) is Fault.AWAY or bool(getattr(error, "connection_invalidated", False))


def _of_sqlite(error: sqlite3.Error) -> Fault:
    code = getattr(error, "sqlite_errorcode", 0)
    if code in SQLITE_DAMAGE:
        return Fault.DAMAGED
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such table"):
        return Fault.DAMAGED
    if (found := SQLITE_CODES.get(code & 0xFF)) is not None:
        return found
    return Fault.REFUSED if isinstance(error, sqlite3.OperationalError) else Fault.BAD_DATA
