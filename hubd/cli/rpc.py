"""`hubd rpc …` and `hubd downlink`: calls of devices, and what waits for an edge."""

import json
import time
from pathlib import Path
from typing import Any

import click

from edgesync.cli.program import as_json_option
from edgesync.serve.control import ask_hub
from hubd.cli.options import checked_text, settings_of
from hubd.settings import data_dir

WAIT_MAX_S = 25.0


def _ask(config: Path, question: str, **facts: Any) -> Any:
    return ask_hub(data_dir(config, settings_of(config)), question, **facts)


@click.group(epilog="Example: hubd rpc send barn-7 pump-1 setSpeed '{\"rpm\": 900}' --wait 20")
def rpc() -> None:
    """Call devices through a running hub, and see what became of calls.

    A call waits, on disk, for its edge and its device, until its time has passed. docs/rpc.md has
    the states.
    """


@rpc.command(epilog="Example: hubd rpc send barn-7 pump-1 stop --ttl 300 --one-way")
@click.argument("edge")
@click.argument("device", callback=checked_text)
@click.argument("method", callback=checked_text)
@click.argument("params", default="null", callback=checked_text)
@click.option(
    "--ttl", "ttl_s", default=60.0, show_default=True, type=click.FloatRange(1, 604_800),
    help="Seconds until it is given up.",
)  # fmt: skip
@click.option("--one-way", is_flag=True, help="No answer is wanted.")
@click.option(
    "--wait", "wait_s", default=0.0, type=click.FloatRange(0, WAIT_MAX_S),
    help="Seconds to wait for the end of it.",
)  # fmt: skip
@click.option("--id", "id_", default="", help="Of yours: the same id again makes no second call.")
@as_json_option
@click.pass_obj
def send(
    config: Path, edge: str, device: str, method: str, params: str, ttl_s: float, one_way: bool,
    wait_s: float, id_: str, as_json: bool,
) -> None:  # fmt: skip
    """Call METHOD of DEVICE at EDGE, with PARAMS as JSON."""
    try:
        value = json.loads(params)
    except ValueError as error:
        raise click.BadParameter(
            f"no JSON: {error}; a text needs quotes of its own, as in '\"fast\"'",
            param_hint="PARAMS",
        ) from None
    body = {
        "device": device, "method": method, "params": value, "ttl_s": ttl_s, "one_way": one_way,
        "wait_s": wait_s, **({"id": id_} if id_ else {}),
    }  # fmt: skip
    _show(_ask(config, "rpc_send", edge=edge, body=body, timeout_s=wait_s + 30.0), as_json)


@rpc.command("list", epilog="Example: hubd rpc list --state QUEUED --json")
@click.option("--edge", default="", help="Of one edge.")
@click.option("--device", default="", help="Of one device.")
@click.option(
    "--state", default="",
    type=click.Choice(["", "QUEUED", "SENT", "DELIVERED", "ANSWERED", "EXPIRED"]),
    help="In one state.",
)  # fmt: skip
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Most calls."
)
@as_json_option
@click.pass_obj
def list_(config: Path, edge: str, device: str, state: str, limit: int, as_json: bool) -> None:
    """List calls, the newest first."""
    asked = {"edge": edge, "device": device, "state": state}
    found = _ask(
        config, "rpc_list", query={**{k: v for k, v in asked.items() if v}, "limit": limit}
    )
    if as_json:
        click.echo(json.dumps(found["calls"], indent=2))
        return
    if not found["calls"]:
        which = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
        click.echo(f"no calls of devices{which and ' with '}{which}")
    for one in found["calls"]:
        click.echo(_line(one))


@rpc.command(epilog="Example: hubd rpc show 5f0c… --wait 20")
@click.argument("call")
@click.option(
    "--wait", "wait_s", default=0.0, type=click.FloatRange(0, WAIT_MAX_S),
    help="Seconds to wait for the end of it.",
)  # fmt: skip
@as_json_option
@click.pass_obj
def show(config: Path, call: str, wait_s: float, as_json: bool) -> None:
    """Show one CALL, by its id."""
    query = {"call": call, "wait_s": wait_s}
    _show(_ask(config, "rpc_show", query=query, timeout_s=wait_s + 30.0), as_json)


@click.command(epilog="Example: hubd downlink barn-7")
@click.argument("edge")
@click.option("--clear", is_flag=True, help="Give up what waits; the edge is told that it did.")
@as_json_option
@click.pass_obj
def downlink(config: Path, edge: str, clear: bool, as_json: bool) -> None:
    """Show what waits for EDGE."""
    found = _ask(config, "downlink", query={"edge": edge}, clear=clear)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    oldest = found["oldest_ns"]
    since = f", the oldest for {(time.time_ns() - oldest) / 1e9:.0f} s" if oldest else ""
    click.echo(f"{edge}: {found['records']} records of {found['nbytes']} bytes wait{since}")
    if found["refused"]:
        click.echo(f"  {found['refused']} were refused, as it was full")
    if found["forks"]:
        click.echo(f"  it forked {found['forks']} times: this hub was restored")


def _show(call: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(call, indent=2) if as_json else _line(call))


def _line(call: dict[str, Any]) -> str:
    told = call["error"] or call["reason"]
    if call["answered_ns"] and not call["error"]:
        told = f"{json.dumps(call['answer'])}{' (late)' if call['is_late'] else ''}"
    where = " at the edge" if call["state"] == "QUEUED" and call["edge_ns"] else ""
    return (
        f"{call['id']} {call['edge']} {call['device']} {call['method']}: "
        f"{call['state']}{where}{'; ' + told if told else ''}"
    )
