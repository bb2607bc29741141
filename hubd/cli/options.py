"""Options that several commands of `hubd` share, and the settings they lead to."""

from pathlib import Path
from typing import Final

import click
import msgspec

from hubd.settings import Settings, read_settings

DATABASE: Final = "hubd.database"


def _note_database(context: click.Context, _parameter: click.Parameter, value: str) -> None:
    if _has_password(value):
        raise click.BadParameter(
            "everybody on this machine can read what a command is given: put the password "
            "into a file and name that as `password_file` under [hub]"
        )
    context.find_root().meta[DATABASE] = value


def _has_password(url: str) -> bool:
    return ":" in url.partition("://")[2].rpartition("@")[0] or "password=" in url


database_option = click.option(
    "--database",
    default="",
    metavar="URL",
    expose_value=False,
    callback=_note_database,
    help="Of PostgreSQL, instead of `database` under [hub] in hub.toml.",
)


def checked_text(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return a text that can be stored and shown; raises BadParameter for what is no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("is no UTF-8") from None
    return value


def checked_text_or_none(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """Do as `checked_text`, for an option that may be left out."""
    return None if value is None else checked_text(context, parameter, value)


def settings_of(config: Path) -> Settings:
    """Return the settings of a hub, with what was given as options over them."""
    settings = read_settings(config)
    database = click.get_current_context().find_root().meta.get(DATABASE, "")
    if not database:
        return settings
    hub = msgspec.structs.replace(settings.hub, database=database)
    return msgspec.structs.replace(settings, hub=hub)
