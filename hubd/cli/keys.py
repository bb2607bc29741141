"""`hubd keys`, `conflicts`, `retire`: the keys of a hub, running or not.

A running hub is asked over HTTP; one that stands still has its files opened, and what is changed
goes into its log, as if it ran.
"""

import contextlib
import functools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from edgesync.cells import Reply
from edgesync.cells.commands import TABLE
from edgesync.cells.conflicts import STATES
from edgesync.cli.program import as_json_option
from edgesync.cli.tables import print_table
from edgesync.store.cells import checked, request_of
from hubd import data_folder
from hubd.api import conflicts as conflict_answers
from hubd.api.answers import ConflictView
from hubd.api.redis_json import plain
from hubd.api.settings import ApiSettings
from hubd.cells import Answers, HubCells
from hubd.cells.keyspaces import stored_tenants
from hubd.client import HubClient
from hubd.errors import HubUnreachable, TenantUnknown
from hubd.log.lmdb import LmdbLog
from hubd.registry import DEFAULT_TENANT
from hubd.settings import data_dir, read_settings
from hubd.web import format

T = TypeVar("T")
HERE = ("0.0.0.0", "::")

token_option = click.option(
    "--token", default="", envvar="HUBD_TOKEN", help="For a hub that wants one; or HUBD_TOKEN."
)

tenant_option = click.option(
    "--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose keys."
)


def _ask(
    config: Path,
    token: str,
    tenant: str,
    ask: Callable[[HubClient], Awaitable[T]],
    look: Callable[[Path], T],
) -> T:
    """Ask the hub, or look into its files when no hub answers; those a hub has open are locked."""
    settings = read_settings(config)

    async def over_http() -> T:
        named = "" if tenant == DEFAULT_TENANT else tenant
        async with HubClient(hub_url(settings.api), token=token, tenant=named) as hub:
            return await ask(hub)

    try:
        return trio.run(over_http)
    except HubUnreachable:
        folder = data_dir(config, settings)
        if tenant != DEFAULT_TENANT and tenant not in stored_tenants(folder):
            raise TenantUnknown(tenant) from None
        return look(folder)


def hub_url(api: ApiSettings) -> str:
    """Return where a hub of these settings answers on its own machine."""
    host = "127.0.0.1" if api.host in HERE else api.host
    return f"http://[{host}]:{api.port}" if ":" in host else f"http://{host}:{api.port}"


def _read(config: Path, tenant: str, look: Callable[[HubCells], T], folder: Path) -> T:
    """Look into the keys of a hub that stands still."""
    from hubd import serve

    settings = read_settings(config)
    with (
        contextlib.closing(LmdbLog(folder / data_folder.LOG)) as hub_log,
        contextlib.closing(serve.open_cells(settings, folder, hub_log, tenant)) as cells,
    ):
        return look(cells)


def _write(config: Path, tenant: str, change: Callable[[Answers], Awaitable[T]], folder: Path) -> T:
    """Change the keys of a hub that stands still."""
    from hubd import serve

    return trio.run(serve.change_keys, read_settings(config), folder, tenant, change)


@click.command(
    epilog="Example: hubd keys HGETALL basket",
    context_settings={"ignore_unknown_options": True},
)
@token_option
@tenant_option
@click.argument("command")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def keys(config: Path, token: str, tenant: str, command: str, arguments: tuple[str, ...]) -> None:
    """Carry out one Redis COMMAND on the keys and print its reply as JSON."""
    reply = _ask(
        config, token, tenant,
        lambda hub: hub.command(command, *arguments),
        functools.partial(_carry_out, config, tenant, command, arguments),
    )  # fmt: skip
    click.echo(msgspec.json.encode(plain(reply)))


def _carry_out(
    config: Path, tenant: str, command: str, arguments: tuple[str, ...], folder: Path
) -> Reply:
    found = TABLE.get(command.lower().encode())
    if found is None or not found.writes:
        return _read(config, tenant, lambda cells: cells.ask(command, arguments), folder)

    async def run(answers: Answers) -> Reply:
        (reply,) = await answers.run_commands([request_of(command, arguments)])
        return checked(reply)

    return _write(config, tenant, run, folder)


@click.command(epilog="Example: hubd conflicts --status open --prefix till: --json")
@click.option(
    "--status", type=click.Choice([*STATES, "all"]), default="open", show_default=True,
    help="Only those in this state.",
)  # fmt: skip
@click.option("--prefix", default="", help="Only keys that begin so.")
@as_json_option
@token_option
@tenant_option
@click.pass_obj
def conflicts(
    config: Path, status: str, prefix: str, as_json: bool, token: str, tenant: str
) -> None:
    """List writes that met and had not seen each other."""
    wanted = "" if status == "all" else status
    found = _ask(
        config, token, tenant,
        lambda hub: hub.conflicts(wanted, prefix),
        functools.partial(
            _read, config, tenant, functools.partial(_conflicts, status=wanted, prefix=prefix)
        ),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(one) for one in found], indent=2))
        return
    from rich.table import Table

    table = Table("id", "status", "key", "cell", "winner", "losers")
    for one in found:
        table.add_row(*_row(one))
    print_table(table)


def _conflicts(cells: HubCells, *, status: str, prefix: str) -> list[ConflictView]:
    found = cells.conflicts.find(
        status=status, prefix=prefix.encode(), limit=cells.conflicts.count + 1
    )
    return [conflict_answers.shown(one) for one in found]


def _row(one: ConflictView) -> list[Any]:
    from rich.text import Text  # what edges wrote is no markup, whatever it looks like

    sides = [f"{side.edge or 'unknown'}: {format.blob(side.value)}" for side in one.losers]
    winner = one.winner and f"{one.winner.edge or 'unknown'}: {format.blob(one.winner.value)}"
    cell = f"{one.cell} {format.blob(one.name)}".strip()
    texts = (format.blob(one.key), cell, winner or "", "\n".join(sides))
    return [str(one.id), one.status, *map(Text, texts)]


@click.command(epilog="Example: hubd retire barn-7")
@click.argument("edge")
@token_option
@tenant_option
@click.pass_obj
def retire(config: Path, edge: str, token: str, tenant: str) -> None:
    """Wait no longer for EDGE to confirm changes of keys; if it comes back, it takes all anew."""
    look = functools.partial(_write, config, tenant, functools.partial(_retire, edge=edge))
    _ask(config, token, tenant, lambda hub: hub.retire(edge), look)
    click.echo(f"{edge} is waited for no more; `hubd revoke {edge}` would also keep it out")


async def _retire(answers: Answers, *, edge: str) -> None:
    if answers.cells.names.get(edge) is None:
        raise click.ClickException(f"{edge} keeps no copy of the keys")
    await answers.give_up(edge)
