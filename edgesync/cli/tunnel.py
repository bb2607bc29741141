"""`edgesync tunnel …`: what the hub is connected to through this edge, and ending it."""

import json
from pathlib import Path

import click

from edgesync.cli.ask import data_dir
from edgesync.cli.program import as_json_option
from edgesync.serve.control import ask


@click.group(epilog="Example: edgesync tunnel close all")
def tunnel() -> None:
    """Show the tunnels that the hub has opened through this edge, or close them.

    `[tunnel]` of edge.toml says what may be reached through it; without it, nothing.
    """


@tunnel.command("list", epilog="Example: edgesync tunnel list --json")
@as_json_option
@click.pass_obj
def list_(config: Path, as_json: bool) -> None:
    """List the tunnels that are open now."""
    found = ask(data_dir(config), "tunnel")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found["open"]:
        moved = f"{one['sent_bytes']} bytes to the hub, {one['received_bytes']} from it"
        click.echo(
            f"{one['tunnel']} to {one['target']}, by {one['by']}: {one['connections']} "
            f"connections, {moved}, {one['left_s']:.0f} s left"
        )
    click.echo(f"{len(found['open'])} open; {found['granted']} granted since the start, "
               f"{found['refused']} refused")  # fmt: skip


@tunnel.command(epilog="Example: edgesync tunnel close 5f0c1a2b")
@click.argument("tunnel")
@as_json_option
@click.pass_obj
def close(config: Path, tunnel: str, as_json: bool) -> None:
    """Close TUNNEL with all its connections, or "all" of them."""
    found = ask(data_dir(config), "tunnel", close=tunnel)
    click.echo(json.dumps(found) if as_json else f"{found['closed']} closed")
