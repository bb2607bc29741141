"""`hubd entities`, `attributes`, `claim`, `alarms`: an edge's devices, over the hub's API."""

import getpass
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
import trio

from edgesync.cli.program import as_json_option
from hubd.api.entity_shapes import AlarmView, Attributes
from hubd.cli.keys import hub_url, tenant_option, token_option
from hubd.client import HubClient
from hubd.registry import DEFAULT_TENANT
from hubd.settings import read_settings

T = TypeVar("T")

# Of a device's firmware or software, whatever they look like: version 1.10 is not the number 1.1.
PACKAGE_TEXTS: Final = {
    f"{kind}_{what}"
    for kind in ("fw", "sw")
    for what in ("title", "version", "tag", "checksum", "checksum_algorithm")
}

kind_option = click.option("--kind", default="device", show_default=True, help="Such as asset.")


def ask_over_http(
    config: Path, token: str, tenant: str, ask: Callable[[HubClient], Awaitable[T]]
) -> T:
    """Ask the hub of these settings, as `token` may; raises HubRefused, HubUnreachable."""
    url = hub_url(read_settings(config).api)

    async def over_http() -> T:
        named = "" if tenant == DEFAULT_TENANT else tenant
        async with HubClient(url, token=token, tenant=named) as hub:
            return await ask(hub)

    return trio.run(over_http)


def print_json(found: Any) -> None:
    # Through JSON: a call has its parameters as they came.
    click.echo(json.dumps(json.loads(msgspec.json.encode(found)), indent=2))


@click.command(epilog="Example: hubd entities barn-7 --kind device")
@click.argument("edge")
@click.option("--kind", default="", help="Only those, such as device; all if not given.")
@click.option("--delete", default="", metavar="NAME", help="Remove this one with all it has.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def entities(
    config: Path, edge: str, kind: str, delete: str, as_json: bool, token: str, tenant: str
) -> None:
    """List the entities of EDGE, or remove one of a kind (a device, if none is said)."""
    if delete:
        removed = ask_over_http(
            config, token, tenant,
            lambda hub: hub.delete_entity(edge, delete, kind=kind or "device"),
        )  # fmt: skip
        print_json({"removed": removed})
        return
    found = ask_over_http(config, token, tenant, lambda hub: hub.entities(edge, kind))
    if as_json:
        print_json(found)
        return
    for one in found:
        click.echo(f"{one.kind}/{one.entity}\t{json.dumps(one.fields, ensure_ascii=False)}")


@click.command(epilog='Example: hubd attributes barn-7 "Scale 7" limit=900 unit=\'"kg"\'')
@click.argument("edge")
@click.argument("entity")
@click.argument("values", nargs=-1, metavar="[NAME=JSON]...")
@click.option("--scope", type=click.Choice(["shared", "server", "client"]), default="shared",
              show_default=True, help="Of what is set or deleted.")  # fmt: skip
@click.option("--delete", multiple=True, metavar="NAME", help="Remove one; may be repeated.")
@kind_option
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def attributes(
    config: Path,
    edge: str,
    entity: str,
    values: tuple[str, ...],
    scope: str,
    delete: tuple[str, ...],
    kind: str,
    as_json: bool,
    token: str,
    tenant: str,
) -> None:
    """Show the attributes of an ENTITY of EDGE; set those that are given, as JSON or text."""
    given = dict(map(_pair, values))

    async def ask(hub: HubClient) -> Attributes:
        if given or delete:
            return await hub.set_attributes(
                edge, entity, given, scope=scope, delete=delete, kind=kind
            )
        return await hub.attributes(edge, entity, kind=kind)

    found = ask_over_http(config, token, tenant, ask)
    if as_json:
        print_json(found)
        return
    for name in ("client", "shared", "server"):
        for key, one in sorted(getattr(found, name).items()):
            click.echo(f"{name}\t{key}\t{json.dumps(one.value, ensure_ascii=False)}")


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=JSON, such as limit=900 or mode=eco")
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        return name, value
    return name, value if name in PACKAGE_TEXTS and isinstance(found, int | float) else found


@click.command(epilog='Example: hubd claim barn-7 "Scale 7" SECRET --by ana')
@click.argument("edge")
@click.argument("device")
@click.argument("secret", default="")
@click.option("--by", default="", help="Who does it; you, if not given.")
@token_option
@tenant_option
@click.pass_obj
def claim(
    config: Path, edge: str, device: str, secret: str, by: str, token: str, tenant: str
) -> None:
    """Claim a DEVICE of EDGE that offers itself, with the SECRET that it says."""
    who = by or getpass.getuser()
    found = ask_over_http(
        config, token, tenant, lambda hub: hub.claim(edge, device, secret, by=who)
    )
    print_json(found.server["claimed"].value)


@click.command(epilog="Example: hubd alarms barn-7 --active")
@click.argument("edge")
@click.option("--active", "status", flag_value="active", help="Only those that last.")
@click.option("--cleared", "status", flag_value="cleared", help="Only those that are over.")
@click.option("--ack", default="", metavar="ID", help="Acknowledge this one.")
@click.option("--clear", default="", metavar="ID", help="End this one.")
@click.option("--by", default="", help="Who does it; you, if not given.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def alarms(
    config: Path,
    edge: str,
    status: str | None,
    ack: str,
    clear: str,
    by: str,
    as_json: bool,
    token: str,
    tenant: str,
) -> None:
    """List the alarms of EDGE; acknowledge or end one."""

    async def ask(hub: HubClient) -> list[AlarmView]:
        who = by or getpass.getuser()
        found = [await hub.ack_alarm(edge, ack, by=who)] if ack else []
        found += [await hub.clear_alarm(edge, clear, by=who)] if clear else []
        return found[-1:] or await hub.alarms(edge, status or "")

    found = ask_over_http(config, token, tenant, ask)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"no {status or ''} alarms at {edge}".replace("  ", " "))
    for one in found:
        words = (one.id, one.status, one.severity, f"{one.kind}/{one.entity}", one.type)
        click.echo("\t".join(words))
