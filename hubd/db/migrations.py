"""Bringing tables up to date by the numbered scripts of Alembic, `versions/v0001_….py` and on.

Alembic is imported only when there is something to do: to import it takes as long as to answer most
commands.
"""

import functools
from pathlib import Path
from typing import Final

import sqlalchemy as sa

VERSION: Final = sa.table("alembic_version", sa.column("version_num"))


class Migrations:
    """The scripts in a folder, and how far a database is with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cached_property
    def newest(self) -> str:
        return max(path.name[1:5] for path in (self._folder / "versions").glob("v[0-9]*.py"))

    @staticmethod
    def revision_of(connection: sa.Connection) -> str:
        """Return the revision of the tables, "" of a database that has none."""
        if not sa.inspect(connection).has_table(VERSION.name):
            return ""
        return connection.scalar(sa.select(VERSION.c.version_num)) or ""

    def upgrade(self, connection: sa.Connection, to: str) -> None:
        """Run the scripts up to `to`; raises LookupError for tables that no script leads from."""
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(self._folder))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, to)
        except CommandError as error:
            raise LookupError(str(error)) from error
