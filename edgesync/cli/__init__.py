"""`edgesync …`: the edge's daemon and what an operator asks of it."""

import importlib
from pathlib import Path
from typing import Final

import click

from edgesync.cli.program import Program, config_option

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
    "doctor": ("edgesync.cli.doctor", "Name the layer that fails, and what to do about it."),
    "service": ("edgesync.cli.service", "Run as a systemd service: print its unit, or install it."),
    "rules": ("edgesync.cli.rules", "Check rule chains, or try them out with a message."),
    "modbus": ("edgesync.cli.modbus", "Read, scan or probe Modbus devices."),
    "simulate": ("edgesync.cli.simulate", "Run simulated devices."),
    "bench": ("edgesync.cli.bench", "Measure what this machine's disk and CPU can do."),
    "demo": ("edgesync.cli.demo", "Run a whole site and its hub on this machine."),
    "completion": ("edgesync.cli.completion", "Print the completion script of a shell."),
}


class Edge(Program):
    """Loads a command when it is called."""

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


@click.group(
    cls=Edge,
    invoke_without_command=True,
    epilog="Example: edgesync init --token edgesync1.… && edgesync run",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@config_option("edge.toml", "EDGESYNC_CONFIG", "The edge's settings; data lies beside it.")
@click.version_option(package_name="edgesync", prog_name="edgesync")
@click.pass_context
def main(context: click.Context, config: Path) -> None:
    """Read a site's devices, store everything durably, and let the hub have it.

    With --config and no command, run.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    if context.get_parameter_source("config") is click.core.ParameterSource.DEFAULT:
        click.echo(context.get_help())
        context.exit(2)
    # `edgesync --config FILE` is what a service unit of other stores says.
    from edgesync.cli.run import run

    context.invoke(run)
