"""Which errors say that the state's file is rotten, and not that a disk refuses or data is bad."""

import sqlite3
from typing import Final

import sqlalchemy as sa

# A page that is none; a file that ends within a page; a sector that cannot be read.
DAMAGE_CODES: Final = frozenset((
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS,
))  # fmt: skip


class StateDamaged(Exception):
    """The state does not hold what was written to it. No entry of the log is to blame."""


def is_damage(error: BaseException) -> bool:
    """Return whether `error` says that the file is rotten: it has to be made again."""
    if isinstance(error, StateDamaged):
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", 0)
    is_schema_gone = code == sqlite3.SQLITE_ERROR and str(error.orig).startswith("no such table")
    return code in DAMAGE_CODES or code & 0xFF == sqlite3.SQLITE_CORRUPT or is_schema_gone
