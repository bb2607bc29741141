"""`edgesync resend`: past readings to the hub once more, from what this edge still has."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from edgesync.cli.ask import data_dir
from edgesync.cli.program import as_json_option
from edgesync.cli.ranges import entity_option, from_option, key_option, range_of, to_option
from edgesync.errors import EdgesyncError
from edgesync.resend import Range, shown_time
from edgesync.serve.control import NotRunning, ask

FOLLOW_S: Final = 0.5


@click.command(epilog="Example: edgesync resend --from -6h --to now --entity meter0")
@from_option
@to_option
@entity_option
@key_option
@click.option("--stop", is_flag=True, help="End what is under way; what was sent stays sent.")
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@as_json_option
@click.pass_obj
def resend(
    config: Path,
    from_ns: int | None,
    to_ns: int | None,
    entity: str,
    key: str,
    stop: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Send past readings from this edge's store to the hub again; without a range, say how far.

    The hub takes what it has not, and counts what it had. Readings and alarms of now go first. It
    goes on when this command ends, and after a restart; an edge that does not run does it later.
    """
    folder = data_dir(config)
    if stop:
        found = ask(folder, "resend", stop=True)
    elif (from_ns, to_ns, entity, key) == (None, None, "", ""):
        found = _state(folder)
    else:
        wanted = range_of(from_ns, to_ns, entity, key)
        try:
            found = ask(folder, "resend", range=msgspec.to_builtins(wanted))
        except NotRunning:
            found, detach = _begun_without_daemon(config, wanted), True
        if not detach:
            found = _followed(folder, as_json=as_json)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found is None:
        click.echo("no readings were asked to be sent again")
    else:
        click.echo(_sentence(found))


def _state(folder: Path) -> Any:
    return ask(folder, "resend")


def _begun_without_daemon(config: Path, wanted: Range) -> Any:
    """Store what is wanted, for the daemon to carry out once it runs."""
    from edgesync.node import STORE, EdgeNode
    from edgesync.store.directory import is_there

    if not is_there(data_dir(config) / STORE):
        raise EdgesyncError(f"nothing is stored in {data_dir(config)} yet; `edgesync run` begins")
    with EdgeNode(config) as node:
        node.part("resend").begin_sync(wanted)
        found = msgspec.to_builtins(node.status().resend)
    click.echo("no daemon runs here; this is done once one does: edgesync run", err=True)
    return found


def _followed(folder: Path, *, as_json: bool) -> Any:
    """Return the state once it is done, showing on a terminal how far it has come."""
    shows = not as_json and sys.stderr.isatty()
    while True:
        found = _state(folder)
        if found is None or found["is_done"]:
            if shows:
                click.echo("\r\x1b[K", nl=False, err=True)
            return found
        if shows:
            click.echo(f"\r\x1b[K{_sentence(found)}", nl=False, err=True)
        time.sleep(FOLLOW_S)


def _sentence(found: dict[str, Any]) -> str:
    name = "/".join((found["entity"] or "*", found["key"] or "*"))
    span = f"{name} from {shown_time(found['from_ns'])} to {shown_time(found['to_ns'])}"
    missed = f", {found['missed']} records had gone meanwhile" if found["missed"] else ""
    if found["is_done"]:
        return f"{found['readings']} readings of {span} sent again{missed}"
    waits = f": {found['problem']}" if found["problem"] else ""
    return f"{found['readings']} readings of {span} sent again, {found['share']:.0%}{missed}{waits}"
