"""`hubd …`: the hub's daemon and what an operator does beside it."""

import sys
from pathlib import Path

import click

from edgesync.cli.program import (
    CODES,
    EX_CONFIG,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    MENDABLE,
    Program,
    config_option,
)
from edgesync_transport.keys import KeyFileError
from hubd.errors import HubError, HubHeld


class Hub(Program):
    mendable = (*MENDABLE, HubError, KeyFileError, ValueError)
    codes = ((KeyFileError, EX_CONFIG), (HubHeld, EX_TEMPFAIL), *CODES)


@click.group(
    cls=Hub,
    epilog="Example: hubd init && hubd enroll barn-7 && hubd run",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HUBD"},
)
@config_option("hub.toml", "HUBD_CONFIG", "The hub's settings; data lies beside it.")
@click.version_option(package_name="edgesync", prog_name="hubd")
@click.pass_context
def main(context: click.Context, config: Path) -> None:
    """Run the hub that edges sync with, and answer questions about it."""
    context.obj = config


def _load() -> None:
    try:
        # Each adds its commands to `main`.
        from hubd.cli import edges, entities, inspect, keys, rpc, run, tenants
    except ModuleNotFoundError as error:
        if (error.name or "hubd").partition(".")[0] in ("hubd", "edgesync"):
            raise
        click.echo(
            f"hubd: the hub's libraries are not installed (no {error.name}): "
            "pip install 'edgesync[hub]'",
            err=True,
        )
        sys.exit(EX_UNAVAILABLE)

    for module in (run, edges, tenants, rpc, keys, entities, inspect):
        module.register(main)


_load()
