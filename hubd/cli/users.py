"""`hubd users …`: people with a name and a password, and what each may do."""

import contextlib
import json
import sys
from pathlib import Path

import click

from edgesync.cli.program import as_json_option
from hubd.cli.edges import registry_for, registry_of
from hubd.cli.options import checked_text, database_option
from hubd.errors import UserRefused
from hubd.registry import DEFAULT_TENANT, Role, User
from hubd.registry.passwords import PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN
from hubd.web import format

role_type = click.Choice([role.value for role in Role])


def _checked_sites(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(checked_text(context, parameter, value) for value in values)


site_option = click.option(
    "--site", "sites", multiple=True, callback=_checked_sites,
    help="Of an operator, as `hubd enroll --site` said or an edge's name; none: every site.",
)  # fmt: skip


def _read_password(name: str) -> str:
    """Ask for it where there is somebody to ask, else take a line of standard input."""
    if sys.stdin.isatty():
        asked = f"Password of {name}, {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters"
        found: str = click.prompt(asked, hide_input=True, confirmation_prompt=True, err=True)
        return found
    line = sys.stdin.readline().rstrip("\n")
    if not line:
        raise UserRefused("no password: give it on standard input, or run this at a terminal")
    return line


@click.group(epilog="Example: hubd users add ana --role admin")
def users() -> None:
    """Let people log in to the dashboard, each with a role.

    An admin may do everything there; an operator acknowledges and clears alarms, edits attributes
    and calls devices; a viewer looks. As soon as there is a user, the dashboard and the API want a
    password or a token, also on this machine.
    """


@users.command(epilog="Example: hubd users add joe --role operator --site 'Hall 4'")
@click.argument("name", callback=checked_text)
@click.option(
    "--role",
    type=role_type,
    default=Role.VIEWER.value,
    show_default=True,
    help="What the user may do.",
)
@site_option
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose user it is.")
@click.option("--all-tenants", is_flag=True, help="Of the hub as a whole, with all tenants.")
@database_option
@click.pass_obj
def add(
    config: Path, name: str, role: str, sites: tuple[str, ...], tenant: str, all_tenants: bool
) -> None:
    """Make the user NAME; the password is asked for, or a line of standard input.

    A running hub lets them in within a second.
    """
    with registry_for(config, "" if all_tenants else tenant) as registry:
        is_first = not registry.users.all()
        made = registry.users.add(
            name, _read_password(name), role=Role(role), sites=sites,
            tenant=None if all_tenants else tenant,
        )  # fmt: skip
    click.echo(f"{made.name} may log in as {_what(made)}")
    if is_first:
        click.echo(
            "from now on the dashboard and the API want a password or a token; programs take a "
            "token, and so do commands that ask the API, as --token: `hubd token`",
            err=True,
        )


@users.command("list", epilog="Example: hubd users list --json")
@as_json_option
@database_option
@click.pass_obj
def list_(config: Path, as_json: bool) -> None:
    """List the users of all tenants."""
    with contextlib.closing(registry_of(config)) as registry:
        found = registry.users.all()
    if as_json:
        rows = [
            {"user": one.name, "tenant": one.tenant, "role": one.role, "sites": one.sites,
             "created_ns": one.created_ns}
            for one in found
        ]  # fmt: skip
        click.echo(json.dumps(rows, indent=2))
        return
    for one in found:
        click.echo(f"{one.name}: {_what(one)}, made {format.moment(one.created_ns)}")


@users.command(epilog="Example: hubd users role joe operator --site 'Hall 4' --site barn-7")
@click.argument("name")
@click.argument("role", type=role_type)
@site_option
@database_option
@click.pass_obj
def role(config: Path, name: str, role: str, sites: tuple[str, ...]) -> None:
    """Give the user NAME another ROLE, and an operator these sites; it counts within a second."""
    with contextlib.closing(registry_of(config)) as registry:
        changed = registry.users.set_role(name, Role(role), sites)
    click.echo(f"{changed.name} is {_what(changed)}")


@users.command(epilog="Example: hubd users password ana")
@click.argument("name")
@database_option
@click.pass_obj
def password(config: Path, name: str) -> None:
    """Give the user NAME another password; who is logged in with the old one is out."""
    with contextlib.closing(registry_of(config)) as registry:
        changed = registry.users.set_password(name, _read_password(name))
    click.echo(f"{changed.name} has another password; their sessions end")


@users.command(epilog="Example: hubd users remove joe")
@click.argument("name")
@database_option
@click.pass_obj
def remove(config: Path, name: str) -> None:
    """Remove the user NAME, whose sessions end."""
    with contextlib.closing(registry_of(config)) as registry:
        registry.users.remove(name)
        is_last = not registry.users.all()
    click.echo(f"{name} is removed")
    if is_last:
        click.echo(
            "no user is left: where hub.toml has no token, whoever can connect from this machine "
            "may read and write",
            err=True,
        )


def _what(user: User) -> str:
    whose = "all tenants" if user.tenant is None else user.tenant
    where = f", at {', '.join(user.sites)}" if user.sites else ""
    return f"{user.role} of {whose}{where}"
