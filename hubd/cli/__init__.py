"""`hubd …`: the hub's daemon and what an operator does beside it."""

import sys
from pathlib import Path
from typing import NoReturn

import click

from edgesync.errors import ConfigError, EdgesyncError, StoreLocked
from hubd.errors import HubError

# sysexits.h: a service manager and a script can tell these apart.
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75
EX_CONFIG = 78


class Hub(click.Group):
    """Turns the errors an operator can mend into one line and an exit code."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ConfigError as error:
            _fail(error, EX_CONFIG)
        except StoreLocked as error:
            _fail(error, EX_TEMPFAIL)
        except (EdgesyncError, HubError, OSError, ValueError) as error:
            _fail(error, EX_UNAVAILABLE)


def _fail(error: Exception, code: int) -> NoReturn:
    click.echo(f"hubd: {error}", err=True)
    sys.exit(code)


@click.group(
    cls=Hub,
    epilog="Example: hubd init && hubd enroll barn-7 && hubd run",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HUBD"},
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("hub.toml"),
    show_default=True,
    help="The hub's settings; data lies beside it.",
)
@click.version_option(package_name="edgesync", prog_name="hubd")
@click.pass_context
def main(context: click.Context, config: Path) -> None:
    """Run the hub that edges sync with, and answer questions about it."""
    context.obj = config


def _load() -> None:
    from hubd.cli import edges, inspect, run  # each adds its commands to `main`

    for module in (run, edges, inspect):
        module.register(main)


_load()
