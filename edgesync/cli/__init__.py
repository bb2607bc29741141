"""`edgesync …`: the edge's daemon and what an operator asks of it."""

from pathlib import Path
from typing import Final

import click

from edgesync.cli.program import Lazy, config_option

COMMANDS: Final = {
    "init": (
        "edgesync.cli.init",
        "Write edge.toml and make the edge's keys; with a token, register them at its hub.",
    ),
    "run": (
        "edgesync.cli.run",
        'Run the edge until SIGTERM or SIGINT; a file that says `mode = "hub"` runs the hub.',
    ),
    "status": (
        "edgesync.cli.ask",
        "Show how the edge is: link, store, what waits for the hub, devices.",
    ),
    "queue": ("edgesync.cli.ask", "Show what waits for the hub, and what was refused for good."),
    "events": ("edgesync.cli.ask", "List events of the journal, the newest first."),
    "latest": (
        "edgesync.cli.ask",
        "List the newest reading of each series since the start of the daemon.",
    ),
    "sync": (
        "edgesync.cli.ask",
        "Wait until the hub durably has everything stored so far; exit code 69 if not in time.",
    ),
    "resend": (
        "edgesync.cli.resend",
        "Send past readings from this edge's store to the hub again; without a range, say how far.",
    ),
    "tunnel": (
        "edgesync.cli.tunnel",
        "Show the tunnels that the hub has opened through this edge, or close them.",
    ),
    "objects": (
        "edgesync.cli.objects",
        "Show the large objects of this edge: models, images, whatever the hub has it hold.",
    ),
    "top": ("edgesync.cli.top", "Watch the running edge: link, lanes, devices, rates."),
    "check": (
        "edgesync.cli.run",
        "Check edge.toml and say what it would do; exit code 78 if it is wrong.",
    ),
    "doctor": (
        "edgesync.cli.doctor",
        "Name the layer that fails, from the settings to the hub, and say what to do about it.",
    ),
    "service": ("edgesync.cli.service", "Run as a systemd service: print its unit, or install it."),
    "rules": (
        "edgesync.cli.rules",
        "Check rule chains, or try them out with a message: nothing is stored or sent.",
    ),
    "modbus": (
        "edgesync.cli.modbus",
        "Ask Modbus TCP devices from the command line; nothing is stored.",
    ),
    "simulate": ("edgesync.cli.simulate", "Run simulated devices."),
    "bench": (
        "edgesync.cli.bench",
        "Measure synced appends by group size, and packing, on this machine.",
    ),
    "demo": (
        "edgesync.cli.demo",
        "Run a simulated site, its gateway and its hub; show the dashboard's address and a ledger.",
    ),
    "completion": ("edgesync.cli.completion", "Print the completion script of a shell."),
}


class Edge(Lazy):
    load = COMMANDS


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
