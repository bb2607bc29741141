"""`edgesync …`: the edge's daemon and what an operator asks of it."""

import importlib
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from edgesync.errors import ConfigError, EdgesyncError, StoreLocked

# sysexits.h: a service manager and a script can tell these apart.
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78

# command -> module and its one-line help: what is not called is not imported.
COMMANDS: Final = {
    "init": ("edgesync.cli.init", "Write edge.toml, and join a hub with its token."),
    "run": ("edgesync.cli.run", "Run the edge until SIGTERM or SIGINT."),
    "status": ("edgesync.cli.ask", "Show how the running edge is."),
    "queue": ("edgesync.cli.ask", "Show what waits for the hub, and what it refused."),
    "events": ("edgesync.cli.ask", "List events of the journal, the newest first."),
    "latest": ("edgesync.cli.ask", "List the newest reading of every series."),
    "sync": ("edgesync.cli.ask", "Wait until the hub has everything stored so far."),
    "top": ("edgesync.cli.top", "Watch the running edge, live."),
    "check": ("edgesync.cli.run", "Check edge.toml and say what it would do."),
    "simulate": ("edgesync.cli.simulate", "Run simulated devices."),
    "bench": ("edgesync.cli.bench", "Measure what this machine's disk and CPU can do."),
    "demo": ("edgesync.cli.demo", "Run a whole site and its hub on this machine."),
    "completion": ("edgesync.cli.completion", "Print the completion script of a shell."),
}


class Edge(click.Group):
    """Loads a command when it is called; turns mendable errors into one line and an exit code."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(COMMANDS[name][0]), name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except* ConfigError as error:
            _fail(error, EX_CONFIG)
        except* StoreLocked as error:
            _fail(error, EX_TEMPFAIL)
        except* (EdgesyncError, OSError) as error:
            _fail(error, EX_UNAVAILABLE)


def _fail(group: BaseExceptionGroup[BaseException], code: int) -> NoReturn:
    for error in _leaves(group):
        click.echo(f"edgesync: {error}", err=True)
    sys.exit(code)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


@click.group(
    cls=Edge,
    epilog="Example: edgesync init --token edgesync1.… && edgesync run",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("edge.toml"),
    show_default=True,
    envvar="EDGESYNC_CONFIG",
    help="The edge's settings; data lies beside it.",
)
@click.version_option(package_name="edgesync", prog_name="edgesync")
@click.pass_context
def main(context: click.Context, config: Path) -> None:
    """Read a site's devices, store everything durably, and let the hub have it."""
    context.obj = config
