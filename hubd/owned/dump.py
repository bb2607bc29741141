"""Owned state as lines of JSON, which either database takes.

    {"revision": "0001"}
    {"table": "tenant", "row": {"name": "acme", ...}}
    ...
    {"rows": 17}

Tables that others refer to come first. The last line says that it is whole. The identity of the
database is not in it: what it is loaded into is another one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hubd.db.dialect import Text
from hubd.errors import HubError
from hubd.owned import tables
from hubd.owned.database import Owned
from hubd.owned.migrate import MIGRATIONS

ROWS_TOGETHER: Final = 1000
# They are there in a database that nobody has used.
FIRST_ROWS: Final = {"change_counter": 1, "tenant": 1}
DUMPED: Final = [one for one in tables.metadata.sorted_tables if one is not tables.identity]


class DumpRefused(HubError):
    """Nothing was loaded; the sentence names the remedy."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    revision: str = ""
    table: str = ""
    row: dict[str, Any] = {}
    rows: int | None = None


def write_dump(owned: Owned, path: Path) -> None:
    """Write all there is at one moment into a new file."""
    encoder = msgspec.json.Encoder()
    count = 0
    with owned.read() as connection, path.open("xb") as out:
        path.chmod(0o600)
        out.write(encoder.encode(Line(revision=MIGRATIONS.revision_of(connection))) + b"\n")
        for table in DUMPED:
            names = [str(column.name) for column in table.columns]
            for row in connection.execute(table.select()):
                line = Line(table=str(table.name), row=dict(zip(names, row, strict=True)))
                out.write(encoder.encode(line) + b"\n")
                count += 1
        out.write(encoder.encode(Line(rows=count)) + b"\n")


def load_dump(owned: Owned, path: Path) -> None:
    """Put a dump into a database that nobody has used yet, all at once; raises DumpRefused."""
    lines = _lines(path)
    revision, newest = next(lines).revision, MIGRATIONS.newest
    if revision > newest:
        raise DumpRefused(
            f"{path} has format {revision}, this edgesync knows up to {newest}; upgrade edgesync"
        )
    with owned.read() as connection:
        _check_unused(connection, owned.name)
    owned.erase()
    owned.prepare(to=revision)
    with owned.change() as connection:
        for name in FIRST_ROWS:
            connection.execute(sa.table(name).delete())
        count, expected = 0, None
        for table, rows in _groups(lines):
            if table is None:
                expected = rows[0]["rows"]
                break
            connection.execute(_table_of(connection, table).insert(), rows)
            count += len(rows)
        if expected != count:
            raise DumpRefused(f"{path} is not whole: {count} rows of {expected}")
    owned.prepare()


def rows_in(path: Path, table: sa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table that a dump has; raises DumpRefused."""
    return (line.row for line in _lines(path) if line.table == table.name)


def _lines(path: Path) -> Iterator[Line]:
    decoder = msgspec.json.Decoder(Line)
    try:
        with path.open("rb") as file:
            for text in file:
                yield decoder.decode(text)
    except msgspec.DecodeError as error:
        raise DumpRefused(f"{path} is damaged: {error}") from error


def _groups(lines: Iterator[Line]) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    """Yield tables with some of their rows each, and at last None with how many there are."""
    name, rows = "", list[dict[str, Any]]()
    for line in lines:
        if rows and (line.table != name or len(rows) >= ROWS_TOGETHER):
            yield name, rows
            rows = []
        if line.rows is not None:
            yield None, [{"rows": line.rows}]
            return
        name = line.table
        rows.append(line.row)


def _table_of(connection: sa.Connection, name: str) -> sa.TableClause:
    """Return a table as it is in the database: later versions may have other columns."""
    columns = [
        sa.column(
            found["name"],
            sa.BigInteger() if isinstance(found["type"], sa.Integer) else Text(),
        )
        for found in sa.inspect(connection).get_columns(name)
    ]
    return sa.table(name, *columns)


def _check_unused(connection: sa.Connection, name: str) -> None:
    for table in DUMPED:
        count = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        if count > FIRST_ROWS.get(table.name, 0):
            raise DumpRefused(
                f"{name} is in use: it has {count} rows in {table.name}; name an empty one, or "
                "`--keep-registry` to go on with what it has"
            )
