"""`hubd enroll`, `hubd revoke`, `hubd edges`: who may speak to this hub."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgesync.cli.program import as_json_option
from edgesync.cli.tables import print_table
from edgesync.serve.control import NotRunning, ask_hub
from hubd import data_folder
from hubd.cli.options import checked_text, database_option, settings_of
from hubd.errors import EdgeUnknown
from hubd.registry import DEFAULT_TENANT, NAME_PATTERN, RegisteredEdge, Registry, open_registry
from hubd.registry.enrol import token_maker
from hubd.registry.names import NAME_RULE
from hubd.settings import Settings, data_dir


def _registry(config: Path) -> tuple[Settings, Path, Registry]:
    settings = settings_of(config)
    folder = data_dir(config, settings)
    data_folder.load_keys(folder)
    return settings, folder, open_registry(folder, data_folder.database_url(settings))


def registry_of(config: Path) -> Registry:
    """Open the registry of the hub with these settings; close it after use."""
    return _registry(config)[2]


@contextlib.contextmanager
def registry_for(config: Path, tenant: str) -> Iterator[Registry]:
    """Open the registry for what is a tenant's, "" for everybody's; raises TenantUnknown."""
    with contextlib.closing(registry_of(config)) as registry:
        if tenant:
            registry.tenants.check(tenant)
        yield registry


def _checked_texts(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(checked_text(context, parameter, value) for value in values)


def checked_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return the name of an edge or a tenant; raises BadParameter for what is none."""
    if not re.fullmatch(NAME_PATTERN, value):
        raise click.BadParameter(NAME_RULE)
    return value


prefix_option = click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    callback=_checked_texts,
    help="Of keys it may be told of; several times for more. Without, all of its tenant's.",
)


@click.command(epilog="Example: hubd enroll barn-7 | ssh barn-7 'edgesync init --token -'")
@click.argument("edge", callback=checked_name)
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose edge it is.")
@click.option("--site", default="", callback=checked_text, help="Where it stands, in your words.")
@prefix_option
@click.option("--again", is_flag=True, help="Give a known edge a token for a new key.")
@as_json_option
@database_option
@click.pass_obj
def enroll(
    config: Path,
    edge: str,
    tenant: str,
    site: str,
    prefixes: tuple[str, ...],
    again: bool,
    as_json: bool,
) -> None:
    """Register EDGE and print the one-line token that lets it in, once.

    Nobody is let in before the token is used: a revoked edge stays out until then, and the present
    key of another one stays good until then.
    """
    settings, folder, registry = _registry(config)
    with contextlib.closing(registry):
        keys = data_folder.load_keys(folder)
        make_token = token_maker(settings, server_key=keys.public)
        invitation = registry.enrolments.invite(
            edge,
            tenant=tenant,
            site=site,
            prefixes=prefixes,
            valid_s=float(settings.enrol.valid),
            again=again,
        )
        token = make_token(invitation)
    if as_json:
        expires_ns = invitation.expires_ns
        click.echo(json.dumps({"edge": edge, "token": token, "expires_ns": expires_ns}))
    else:
        click.echo(token)
        minutes = (invitation.expires_ns - time.time_ns()) / 60e9
        click.echo(f"valid once, for {minutes:.0f} minutes: edgesync init --token …", err=True)


@click.command(epilog="Example: hubd grant barn-7 --prefix barn/ --prefix shared/")
@click.argument("edge")
@prefix_option
@click.option("--all", "is_all", is_flag=True, help="All keys of its tenant again.")
@database_option
@click.pass_obj
def grant(config: Path, edge: str, prefixes: tuple[str, ...], is_all: bool) -> None:
    """Say which keys EDGE may be told of, whatever it asks for; a running hub notices at once.

    What the edge has already, stays there. It may write any key.
    """
    if bool(prefixes) == is_all:
        raise click.UsageError("say --prefix, once or several times, or --all")
    _, _, registry = _registry(config)
    with contextlib.closing(registry):
        registry.edges.grant(edge, prefixes)
    click.echo(f"{edge} is told of {', '.join(prefixes) or 'all keys of its tenant'}")


@click.command(epilog="Example: hubd revoke barn-7")
@click.argument("edge")
@database_option
@click.pass_obj
def revoke(config: Path, edge: str) -> None:
    """Revoke EDGE's key for good; a running hub notices within a second. Its data stays."""
    _, _, registry = _registry(config)
    with contextlib.closing(registry):
        registry.edges.revoke(edge)
    click.echo(
        f"{edge} is revoked, its key for good; "
        f"the token of hubd enroll {edge} --again lets it back in with a new one"
    )


@click.command(epilog="Example: hubd forget test-edge")
@click.argument("edge")
@click.option("--yes", is_flag=True, help="Without asking.")
@database_option
@click.pass_obj
def forget(config: Path, edge: str, yes: bool) -> None:
    """Revoke EDGE for good, take it out of every list, and wait for it no more.

    What it has sent stays in the log. The name may be given again, to another gateway. If a step of
    it fails, do it again.
    """
    _, folder, registry = _registry(config)
    with contextlib.closing(registry):
        is_registered = edge in (each.name for each in registry.edges.all())
        if is_registered:
            if not yes:
                click.confirm(f"forget {edge}? Its key is never let in again", abort=True, err=True)
            registry.edges.forget(edge)
    # Keys: a hub that stands still gives it up when it has not asked for `cells.retire_after`.
    has_keys = False
    with contextlib.suppress(NotRunning):
        has_keys = ask_hub(folder, "retire", edge=edge)["retired"]
    if not (is_registered or has_keys):
        raise EdgeUnknown(edge)
    click.echo(f"{edge} is forgotten; what it has sent is still in the log")


@click.command(epilog="Example: hubd edges --json")
@as_json_option
# Taken as by the other commands; the hub's own socket, which is asked, needs none.
@click.option("--token", default="", envvar="HUBD_TOKEN", hidden=True, expose_value=False)
@database_option
@click.pass_obj
def edges(config: Path, as_json: bool) -> None:
    """List the edges, with their present state when the hub is running."""
    _, folder, registry = _registry(config)
    with contextlib.closing(registry):
        registered = registry.edges.all()
    live = _live(folder)
    if live is None:
        click.echo("the hub is not running: which edges are connected is not known", err=True)
        live = {}
    rows: list[dict[str, Any]] = []
    for edge in registered:
        now = live.get(edge.name, {})
        rows.append(
            {
                "edge": edge.name,
                "tenant": edge.tenant,
                "site": edge.site,
                "prefixes": " ".join(edge.prefixes),
                "state": _state(edge, now),
                "lag_records": now.get("lag_records"),
                "rtt_s": now.get("rtt_s"),
                "clock_offset_s": now.get("clock_offset_s"),
                "enrolled": bool(edge.keys),
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    # A column that is empty in every row would take the room of the others.
    filled = {name for row in rows for name, value in row.items() if value not in (None, "")}
    shown = [name for name in rows[0] if name in filled] if rows else ["edge", "state"]
    table = Table(*shown)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in shown))
    print_table(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _state(edge: RegisteredEdge, now: dict[str, Any]) -> str:
    if edge.is_revoked:
        return "revoked"
    return str(now.get("state", "unknown")) if edge.keys else "invited"


def _live(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Ask the running hub, over its control socket; None when none runs."""
    try:
        found: dict[str, dict[str, Any]] = ask_hub(folder, "edges")
    except NotRunning:
        return None
    return found
