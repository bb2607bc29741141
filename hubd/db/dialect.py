"""Statements and types that are not the same in SQLite and in PostgreSQL.

`insert` makes statements with `on_conflict_do_update` and `on_conflict_do_nothing`, which both
write alike.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import insert as insert
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

# PostgreSQL has no text with a NUL, nor one that is no UTF-8. In such a text these code points,
# which Unicode leaves to a program's own use, stand for what cannot be said.
ESCAPE, NUL, BYTE, NIBBLES = "\ufdd0", "\ufdd1", "\ufdd2", 0xFDE0
SPECIAL: Final = re.compile("[\0\ufdd0-\ufdef\udc80-\udcff]")
ESCAPED: Final = re.compile("\ufdd1|\ufdd2..|\ufdd0.", re.DOTALL)


class Text(sa.types.TypeDecorator[str]):
    """A text of any characters, which are compared and sorted by their code points."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        collation = None if dialect.name == "sqlite" else "C"
        return dialect.type_descriptor(sa.Text(collation=collation))

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value if value is None or dialect.name == "sqlite" else escape(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value if value is None or dialect.name == "sqlite" else unescape(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        # A call for each text of a thousand rows is a tenth of what they take.
        return None if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


class TextBytes(sa.types.TypeDecorator[bytes]):
    """Bytes that are nearly always a text: in PostgreSQL they are one, to be read and searched."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.LargeBinary())
        return dialect.type_descriptor(sa.Text(collation="C"))

    def process_bind_param(self, value: bytes | None, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name == "sqlite":
            return value
        return escape(value.decode("utf-8", "surrogateescape"))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> bytes | None:
        if value is None or dialect.name == "sqlite":
            return value  # type: ignore[no-any-return]
        return unescape(value).encode("utf-8", "surrogateescape")


# An entry of an index of PostgreSQL has 2,704 bytes.
INDEXED_CHARS: Final = 128


class indexed(FunctionElement[str]):  # as SQLAlchemy's own functions
    """What an index has of a text of any length: all of it in SQLite, else its beginning.

    A question that asks for a text asks for this, too, to find it by the index.
    """

    inherit_cache = True
    type = Text()


class as_text(FunctionElement[str]):
    """The text that TextBytes are."""

    inherit_cache = True
    type = Text()


@compiles(indexed)
def _beginning(element: indexed, compiler: Any, **options: Any) -> str:
    return f"left({compiler.process(element.clauses, **options)}, {INDEXED_CHARS})"


@compiles(indexed, "sqlite")
def _whole(element: indexed, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(as_text)
def _is_text(element: as_text, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(as_text, "sqlite")
def _cast(element: as_text, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS TEXT)"


# Of fewer rows a COPY is no quicker than an INSERT; of many it takes a quarter of the time.
COPY_ROWS_MIN: Final = 8


def insert_rows(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows that all have the same columns."""
    if connection.dialect.name == "sqlite" or len(rows) < COPY_ROWS_MIN:
        if rows:
            connection.execute(table.insert(), rows)
        return
    dialect, names = connection.dialect, list(rows[0])
    prepare = [table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names]
    columns = ", ".join(f'"{name}"' for name in names)
    statement = f'COPY "{table.name}" ({columns}) FROM STDIN'
    raw: Any = connection.connection.dbapi_connection
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row([
                    row[name] if change is None else change(row[name])
                    for name, change in zip(names, prepare, strict=True)
                ])  # fmt: skip
    except dialect.loaded_dbapi.Error as error:
        raise sa.exc.DBAPIError.instance(
            statement, None, error, dialect.loaded_dbapi.Error,
            connection_invalidated=raw.closed, dialect=dialect,
        ) from error  # fmt: skip


def count_on(connection: sa.Connection, table: sa.Table) -> None:
    """Have numbers that the database gives go on after those of rows that came with theirs."""
    column = table.autoincrement_column
    if column is None or connection.dialect.name == "sqlite":  # which looks at its rows
        return
    greatest = connection.scalar(sa.select(sa.func.max(column)))
    if greatest is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(sequence, greatest)))


def of_tuples(statement: sa.Insert, names: Sequence[str], dialect: str) -> str:
    """Return an insert as text, for `exec_driver_sql` with tuples of the columns `names`."""
    kind = sqlite.dialect() if dialect == "sqlite" else psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    compiled = statement.compile(dialect=kind)
    assert compiled.positiontup == list(names)
    return str(compiled)


def uncompressed(column: sa.Column[Any]) -> None:
    """Keep PostgreSQL from trying to compress what is packed already."""
    table = column.table
    statement = f"ALTER TABLE {table.name} ALTER {column.name} SET STORAGE EXTERNAL"
    ddl = sa.DDL(statement).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
    sa.event.listen(table, "after_create", ddl)


def escape(text: str) -> str:
    """Return a text that PostgreSQL takes; it is the same for all but very few."""
    if text.isascii() and "\0" not in text:
        return text
    return SPECIAL.sub(_escaped, text)


def unescape(text: str) -> str:
    return text if text.isascii() else ESCAPED.sub(_unescaped, text)


def _escaped(found: re.Match[str]) -> str:
    mark = found[0]
    if mark == "\0":
        return NUL
    if mark < "\ue000":  # of a byte that is no UTF-8
        byte = ord(mark) & 0xFF
        return BYTE + chr(NIBBLES + (byte >> 4)) + chr(NIBBLES + (byte & 15))
    return ESCAPE + mark


def _unescaped(found: re.Match[str]) -> str:
    mark = found[0]
    if mark == NUL:
        return "\0"
    if mark[0] == BYTE:
        high, low = ord(mark[1]) - NIBBLES, ord(mark[2]) - NIBBLES
        return chr(0xDC00 + (high << 4 | low))
    return mark[1]
