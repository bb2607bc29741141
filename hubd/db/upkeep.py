"""What a database wants beside its statements: a place for its tables, and a file that is whole."""

import logging
import sqlite3
from typing import Any

import sqlalchemy as sa

log = logging.getLogger(__name__)


def make_schema(connection: sa.Connection, schema: str) -> None:
    """Make the schema that the engine of `connection` names; SQLite's file is its own.

    One that is there wants no right to make it.
    """
    if connection.dialect.name != "sqlite" and not sa.inspect(connection).has_schema(schema):
        connection.execute(sa.schema.CreateSchema(schema))


def empty_wal(connection: sa.Connection) -> None:
    """Move what was committed into the main file, unless others read or write it just now.

    A process that was killed leaves its WAL behind: a copy of the main file alone would lack the
    newest changes, and a damaged WAL takes them away. It is emptied and not only copied: the first
    part of a damaged WAL would bring old pages back. Where others are in the way, the next change
    tries again. PostgreSQL does all that by itself.
    """
    if connection.dialect.name != "sqlite":
        return
    raw: Any = connection.connection.dbapi_connection
    cursor = raw.cursor()
    (busy_ms,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:  # the change itself is durable in the WAL
        log.info("%s: the write-ahead log stays for now: %s", connection.engine.url, error)
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {busy_ms}")
        cursor.close()
