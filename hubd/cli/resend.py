"""`hubd resend`: asks an edge for past readings once more."""

from pathlib import Path

import click
import msgspec

from edgesync.cli.ranges import entity_option, from_option, key_option, range_of, to_option
from edgesync.serve.control import ask_hub
from hubd.cli.options import settings_of
from hubd.settings import data_dir


@click.command(epilog="Example: hubd resend barn-7 --from -6h --to now --entity meter0")
@click.argument("edge")
@from_option
@to_option
@entity_option
@key_option
@click.pass_obj
def resend(
    config: Path, edge: str, from_ns: int | None, to_ns: int | None, entity: str, key: str
) -> None:
    """Ask EDGE to send past readings of its store again, as `edgesync resend` does there.

    The hub takes what it has not. An edge that is away hears of it when it is back. An event
    `resent` tells the end, `resend_refused` why the edge cannot.
    """
    wanted = range_of(from_ns, to_ns, entity, key)
    folder = data_dir(config, settings_of(config))
    ask_hub(folder, "resend", edge=edge, range=msgspec.to_builtins(wanted))
    click.echo(f"{edge} is asked; an event `resent` or `resend_refused` tells what became of it")
