"""`hubd tunnel …`: TCP connections from this machine to what an edge can reach."""

import json
import signal
import time
from pathlib import Path
from typing import Any, Final

import click

from edgesync.cli.program import as_json_option
from edgesync.serve.control import ask_hub
from edgesync.units import parse_duration
from hubd.cli.options import checked_text, settings_of
from hubd.settings import data_dir

# How often a tunnel is looked at; waiting at the hub would take others' place there.
FOLLOW_S: Final = 1.0


def _ask(config: Path, question: str, **facts: Any) -> Any:
    return ask_hub(data_dir(config, settings_of(config)), question, **facts)


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is no host:port, as in 127.0.0.1:22 or [::1]:22")
    return host, int(port)


def _duration(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group(epilog="Example: hubd tunnel open barn-7 127.0.0.1:22 --for 30m")
def tunnel() -> None:
    """Reach a gateway, or a device behind it, over its link: no port is open at the site.

    The edge decides what may be reached (`[tunnel]` of its edge.toml), for how long, and may close
    a tunnel at any time. Who opened one is in the audit here, and an event of the edge.
    """


@tunnel.command(
    "open", epilog="Example: hubd tunnel open barn-7 192.168.1.20:502 --listen 127.0.0.1:1502"
)
@click.argument("edge", callback=checked_text)
@click.argument("target", metavar="HOST:PORT", callback=_address)
@click.option(
    "--for", "for_s", default="30m", show_default=True, callback=_duration,
    help="How long; the edge may grant less.",
)  # fmt: skip
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, metavar="ADDRESS:PORT",
    callback=_address, help="Where to listen, on a loopback address; port 0 is any that is free.",
)  # fmt: skip
@as_json_option
@click.pass_obj
def open_(
    config: Path, edge: str, target: tuple[str, int], for_s: float, listen: tuple[str, int],
    as_json: bool,
) -> None:  # fmt: skip
    """Open a tunnel to HOST:PORT, as EDGE reaches it, print where to connect, and stay.

    It is closed by Ctrl-C, and over when its time is, when nothing moves in it, when the edge or
    the hub says so, or when their session ends. Then a line says why.
    """
    body = {
        "host": target[0], "port": target[1], "for_s": for_s, "listen": listen[0],
        "listen_port": listen[1],
    }  # fmt: skip
    found = _ask(config, "tunnel_open", edge=edge, body=body)
    _show(found, as_json)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    query = {"tunnel": found["tunnel"]}
    try:
        while found["state"] != "over":
            time.sleep(FOLLOW_S)
            found = _ask(config, "tunnel_show", query=query)
    except KeyboardInterrupt:
        found = _ask(config, "tunnel_close", query=query, body={})
    _show(found, as_json)


@tunnel.command("list", epilog="Example: hubd tunnel list --json")
@click.option("--edge", default="", help="Of one edge.")
@as_json_option
@click.pass_obj
def list_(config: Path, edge: str, as_json: bool) -> None:
    """List tunnels, the newest first, and why those that are over are."""
    found = _ask(config, "tunnel_list", query={"edge": edge} if edge else {})["tunnels"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no tunnels since this hub was started")
    for one in found:
        click.echo(_line(one))


@tunnel.command(epilog="Example: hubd tunnel close 5f0c1a2b")
@click.argument("tunnel")
@as_json_option
@click.pass_obj
def close(config: Path, tunnel: str, as_json: bool) -> None:
    """Close TUNNEL, and all connections in it."""
    _show(_ask(config, "tunnel_close", query={"tunnel": tunnel}, body={}), as_json)


def _show(one: dict[str, Any], as_json: bool) -> None:
    # A line each, as there are two: one now and one when it is over.
    click.echo(json.dumps(one) if as_json else _line(one))


def _line(one: dict[str, Any]) -> str:
    what = f"{one['tunnel']} {one['target']} at {one['edge']}, by {one['by']}"
    count = f"{one['opened']} connections"
    moved = f"{one['sent_bytes']} bytes there, {one['received_bytes']} back"
    if one["state"] == "over":
        return f"{what}: over, {one['reason']}; {count}, {moved}"
    if one["state"] == "opening":
        return f"{what}: opening"
    left = f"{one['left_s'] / 60:.0f} min" if one["left_s"] >= 120 else f"{one['left_s']:.0f} s"
    return f"{what}: connect to {one['address']}, {left} left; {count}, {moved}"
