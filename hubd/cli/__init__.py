"""`hubd …`: the hub's daemon and what an operator does beside it."""

import sys
from pathlib import Path
from typing import Final

import click

from edgesync.cli.program import (
    CODES,
    EX_CONFIG,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    MENDABLE,
    Lazy,
    config_option,
)
from edgesync_transport.keys import KeyFileError
from hubd.errors import HubError, HubHeld

COMMANDS: Final = {
    "init": (
        "hubd.cli.run",
        "Write hub.toml and make the hub's keys; nothing that exists is overwritten.",
    ),
    "run": ("hubd.cli.run", "Serve edges, the API and the dashboard until SIGTERM or SIGINT."),
    "check": (
        "hubd.cli.run",
        "Check hub.toml and say what it would do; exit code 78 if it is wrong.",
    ),
    "status": (
        "hubd.cli.inspect",
        "Say how the running hub is: its log, its projectors, and what is wrong.",
    ),
    "enroll": (
        "hubd.cli.edges",
        "Register EDGE and print the one-line token that lets it in, once.",
    ),
    "edges": (
        "hubd.cli.edges",
        "List the edges, with their present state when the hub is running.",
    ),
    "edge": (
        "hubd.cli.edge",
        "Create, change, assign, sync and forget edges, and have something happen at them.",
    ),
    "grant": (
        "hubd.cli.edges",
        "Say which keys EDGE may be told of, whatever it asks for; a running hub notices at once.",
    ),
    "revoke": (
        "hubd.cli.edges",
        "Revoke EDGE's key for good; a running hub notices within a second. Its data stays.",
    ),
    "forget": (
        "hubd.cli.edges",
        "Revoke EDGE for good, take it out of every list, and wait for it no more.",
    ),
    "tenant": ("hubd.cli.tenants", "Keep organisations apart that share this hub."),
    "users": ("hubd.cli.users", "Let people log in to the dashboard, each with a role."),
    "token": (
        "hubd.cli.run",
        "Make a token of the API, put its hash into hub.toml and print it, once.",
    ),
    "entities": (
        "hubd.cli.entities",
        "List the entities of EDGE, or remove one of a kind (a device, if none is said).",
    ),
    "attributes": (
        "hubd.cli.entities",
        "Show the attributes of an ENTITY of EDGE; set those that are given, as JSON or text.",
    ),
    "claim": (
        "hubd.cli.entities",
        "Claim a DEVICE of EDGE that offers itself, with the SECRET that it says.",
    ),
    "alarms": ("hubd.cli.entities", "List the alarms of EDGE; acknowledge or end one."),
    "rpc": ("hubd.cli.rpc", "Call devices through a running hub, and see what became of calls."),
    "downlink": ("hubd.cli.rpc", "Show what waits for EDGE."),
    "tunnel": (
        "hubd.cli.tunnel",
        "Reach a gateway, or a device behind it, over its link: no port is open at the site.",
    ),
    "rules": (
        "hubd.cli.rules",
        "Keep rule chains for edges, in bundles with versions, and say which edge runs which.",
    ),
    "object": ("hubd.cli.objects", "Keep large files for edges: dashboards, images, models."),
    "keys": (
        "hubd.cli.keys",
        "Carry out one Redis COMMAND on the keys and print its reply as JSON.",
    ),
    "conflicts": ("hubd.cli.keys", "List writes that met and had not seen each other."),
    "retire": (
        "hubd.cli.keys",
        "Wait no longer for EDGE to confirm changes of keys; if it comes back, it takes all anew.",
    ),
    "log": ("hubd.cli.inspect", "List what is in the log; the hub may be running."),
    "ledger": (
        "hubd.cli.inspect",
        "Print every record of EDGE in the log, then every point in the state, as lines of JSON.",
    ),
    "resend": (
        "hubd.cli.resend",
        "Ask EDGE to send past readings of its store again, as `edgesync resend` does there.",
    ),
    "alerts": (
        "hubd.cli.inspect",
        "Print alerts of hub and edges, as a rules file for Prometheus.",
    ),
    "backup": (
        "hubd.cli.inspect",
        "Copy the hub into TARGET, a folder of its own; the hub may be running.",
    ),
    "restore": (
        "hubd.cli.inspect",
        "Begin again from a backup, in an empty data directory; edges resend what it lacks.",
    ),
    "service": ("hubd.cli.run", "Run as a systemd service: print its unit, or install it."),
    "completion": ("edgesync.cli.completion", "Print the completion script of a shell."),
}


class Hub(Lazy):
    load = COMMANDS
    mendable = (*MENDABLE, HubError, KeyFileError, ValueError)
    codes = ((KeyFileError, EX_CONFIG), (HubHeld, EX_TEMPFAIL), *CODES)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ModuleNotFoundError as error:
            if (error.name or "hubd").partition(".")[0] in ("hubd", "edgesync"):
                raise
            click.echo(
                f"hubd: the hub's libraries are not installed (no {error.name}): "
                "pip install 'edgesync[hub]'",
                err=True,
            )
            sys.exit(EX_UNAVAILABLE)


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
