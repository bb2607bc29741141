"""`hubd edge …`: edges as a whole and events for them, over the API of a running hub."""

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from edgesync.cli.program import as_json_option
from hubd.api.edge_shapes import EdgeDetails
from hubd.cli.edges import prefix_option
from hubd.cli.entities import ask_over_http as _ask
from hubd.cli.entities import print_json
from hubd.cli.keys import tenant_option, token_option
from hubd.cli.options import checked_text, checked_text_or_none
from hubd.client import HubClient
from hubd.edge_service import EdgeToken
from hubd.rpc.calls import CallView

WAIT_MAX_S = 25.0


@click.group(epilog="Example: hubd edge save barn-7 --label 'Old barn' --site 'Hall 4'")
def edge() -> None:
    """Create, change, assign, sync and forget edges, and have something happen at them.

    `hubd edges` lists them all; docs/edges.md has the same over HTTP and from Python.
    """


@edge.command("list", epilog="Example: hubd edge list --site 'Hall 4' --state lost")
@click.option("--site", default="", help="Where they stand.")
@click.option("--type", "type_", default="", help="Which kind of edge.")
@click.option("--customer", default="", help="To whom they are assigned.")
@click.option("--state", default="", help="Of the link, such as connected or lost.")
@click.option("--text", default="", help="Found in name or label.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def list_(
    config: Path, site: str, type_: str, customer: str, state: str, text: str, as_json: bool,
    token: str, tenant: str,
) -> None:  # fmt: skip
    """List the edges that fit."""
    found = _ask(
        config, token, tenant,
        lambda hub: hub.edges(site=site, type=type_, customer=customer, state=state, text=text),
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no such edges")
    for one in found:
        words = (one.link.edge, one.link.state, one.link.label, one.link.site, one.link.customer)
        click.echo("\t".join(words).rstrip())


@edge.command(epilog="Example: hubd edge show barn-7 --json")
@click.argument("name", metavar="EDGE")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def show(config: Path, name: str, as_json: bool, token: str, tenant: str) -> None:
    """Show one EDGE: what is said of it, and its link."""
    found = _ask(config, token, tenant, lambda hub: hub.edge(name))
    if as_json:
        print_json(found)
        return
    for field in ("edge", "label", "type", "site", "customer", "tenant", "state", "software"):
        if value := getattr(found.link, field):
            click.echo(f"{field:<9} {value}")
    click.echo(f"health    {found.health}")


@edge.command(epilog="Example: hubd edge save till-9 --label 'Till 9' --type till")
@click.argument("name", metavar="EDGE")
@click.option("--label", callback=checked_text_or_none, help="What people call it; '' for none.")
@click.option("--type", "type_", callback=checked_text_or_none, help="Its kind; '' for none.")
@click.option("--site", callback=checked_text_or_none, help="Where it stands; '' for nowhere.")
@prefix_option
@click.option("--no-prefix", is_flag=True, help="It may be told of all keys of its tenant again.")
@click.option("--invite", is_flag=True, help="Print a token too, which lets a gateway join.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def save(
    config: Path, name: str, label: str | None, type_: str | None, site: str | None,
    prefixes: tuple[str, ...], no_prefix: bool, invite: bool, as_json: bool, token: str,
    tenant: str,
) -> None:  # fmt: skip
    """Create EDGE, or change what is given of it; its name stays for ever."""
    if no_prefix and any(prefixes):
        raise click.UsageError("say --prefix, once or several times, or --no-prefix")
    # As with the other options: '' takes away what was said before.
    granted = () if no_prefix or prefixes == ("",) else prefixes or None

    async def ask(hub: HubClient) -> tuple[EdgeDetails, EdgeToken | None]:
        saved = await hub.save_edge(name, label=label, type=type_, site=site, prefixes=granted)
        return saved, await hub.edge_token(name) if invite else None

    found, made = _ask(config, token, tenant, ask)
    if as_json:
        print_json(
            {**msgspec.to_builtins(found), **({} if made is None else {"token": made.token})}
        )
        return
    click.echo(f"{name} is {'new' if found.is_new else 'changed'}", err=made is not None)
    if made is not None:
        click.echo(made.token)


@edge.command(epilog="Example: hubd edge assign barn-7 'Mill & Co'")
@click.argument("name", metavar="EDGE")
@click.argument("customer", callback=checked_text)
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def assign(
    config: Path, name: str, customer: str, as_json: bool, token: str, tenant: str
) -> None:  # fmt: skip
    """Assign EDGE to a CUSTOMER of its tenant; it gives nobody rights."""
    found = _ask(config, token, tenant, lambda hub: hub.assign_edge(name, customer))
    _told(found, as_json, f"{name} is assigned to {found.customer}")


@edge.command(epilog="Example: hubd edge unassign barn-7")
@click.argument("name", metavar="EDGE")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def unassign(config: Path, name: str, as_json: bool, token: str, tenant: str) -> None:
    """Take EDGE from its customer."""
    found = _ask(config, token, tenant, lambda hub: hub.unassign_edge(name))
    _told(found, as_json, f"{name} is assigned to nobody")


@edge.command(epilog="Example: hubd edge delete test-edge --yes")
@click.argument("name", metavar="EDGE")
@click.option("--yes", is_flag=True, help="Without asking.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def delete(config: Path, name: str, yes: bool, as_json: bool, token: str, tenant: str) -> None:
    """Revoke EDGE for good and take it out of every list, as `hubd forget` does.

    What it has sent stays in the log. The name may be given again, to another gateway.
    """
    if not yes:
        click.confirm(f"delete {name}? Its key is never let in again", abort=True, err=True)
    found = _ask(config, token, tenant, lambda hub: hub.delete_edge(name))
    lag = f", {found.lag_records} records of it had not arrived" if found.lag_records else ""
    _told(found, as_json, f"{name} is forgotten{lag}")


@edge.command(epilog="Example: hubd edge sync barn-7 --wait 20")
@click.argument("name", metavar="EDGE")
@click.option("--full/--quick", default=True, help="Whether all keys are compared, too.")
@click.option(
    "--ttl", "ttl_s", default=3600.0, show_default=True, type=click.FloatRange(1, 604_800),
    help="Seconds until it is given up.",
)  # fmt: skip
@click.option(
    "--wait", "wait_s", default=0.0, type=click.FloatRange(0, WAIT_MAX_S),
    help="Seconds to wait for the end of it.",
)  # fmt: skip
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def sync(
    config: Path, name: str, full: bool, ttl_s: float, wait_s: float, as_json: bool, token: str,
    tenant: str,
) -> None:  # fmt: skip
    """Have EDGE sync now, or when it is back; `hubd rpc show ID` says what came of it."""
    found = _ask(
        config, token, tenant,
        lambda hub: hub.sync_edge(name, full=full, ttl_s=ttl_s, wait_s=wait_s),
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        click.echo(_line(found))


@edge.command(epilog="Example: hubd edge missing barn-7")
@click.argument("name", metavar="EDGE")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def missing(config: Path, name: str, as_json: bool, token: str, tenant: str) -> None:
    """List what of EDGE waits for something that is missing: entities, relations, rule chains."""
    found = _ask(config, token, tenant, lambda hub: hub.missing(name))
    if as_json:
        print_json(found)
        return
    if not found.waiting and not found.chains:
        click.echo(f"nothing is missing at {name}")
    for one in found.waiting:
        click.echo(f"{one.what}\tlacks\t{one.lacks}")
    for chain in found.chains:
        click.echo(f"rule chain {chain.chain}\tlacks\t{' or '.join(chain.lacks)}")


@edge.command(epilog="Example: hubd edge tell barn-7 relations_deleted --entity 'Scale 7'")
@click.argument("name", metavar="EDGE")
@click.argument("action")
@click.argument("body", default="{}", callback=checked_text)
@click.option("--entity", default="", callback=checked_text, help="Name of what it is about.")
@click.option("--kind", default="device", show_default=True, help="Such as asset.")
@click.option("--type", "type_", default="", help="Such as alarm, for an action of several.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def tell(
    config: Path, name: str, action: str, body: str, entity: str, kind: str, type_: str,
    as_json: bool, token: str, tenant: str,
) -> None:  # fmt: skip
    """Have an ACTION happen at EDGE, with a BODY of JSON; docs/edges.md lists actions and bodies.

    It waits for the edge, on disk.
    """
    try:
        facts: Any = json.loads(body)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="BODY") from None
    if not isinstance(facts, dict):
        raise click.BadParameter("is no object, such as '{\"set\": {}}'", param_hint="BODY")
    saved = _ask(
        config, token, tenant,
        lambda hub: hub.save_event(name, action, entity=entity, kind=kind, type=type_, body=facts),
    )  # fmt: skip
    _told(saved, as_json, f"{saved.type} {saved.action} {saved.entity}".rstrip())


@edge.command(epilog="Example: hubd edge clean barn-7 --older-than 86400")
@click.argument("name", metavar="EDGE")
@click.option(
    "--older-than", "older_than_s", required=True, type=click.FloatRange(0, 31_536_000),
    help="Seconds that it has waited at least.",
)  # fmt: skip
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def clean(
    config: Path, name: str, older_than_s: float, as_json: bool, token: str, tenant: str
) -> None:  # fmt: skip
    """Give up events that have waited for EDGE for so long; it is told that they are gone."""
    count = _ask(config, token, tenant, lambda hub: hub.clean_events(name, older_than_s))
    if as_json:
        print_json({"edge": name, "records": count})
    else:
        click.echo(f"{name}: {count} records given up")


def _told(found: msgspec.Struct, as_json: bool, text: str) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(text)


def _line(call: CallView) -> str:
    told = call.error or call.reason
    if call.answer is not None and not call.error:
        told = json.dumps(call.answer)
    return f"{call.id} {call.edge} sync: {call.state}{'; ' + told if told else ''}"
