"""`edgesync status | queue | events | latest | sync`: questions to the running daemon."""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgesync.serve.control import ask
from edgesync.settings import read_settings

as_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def data_dir(config: Path) -> Path:
    settings = read_settings(config)
    return (config.parent / settings.edge.data_dir).absolute()


def _printed(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    Console().print(table)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column.endswith("_ns"):
        moment = datetime.datetime.fromtimestamp(value / 1e9, datetime.UTC)
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _listing(question: str, columns: Sequence[str], text: str, example: str) -> click.Command:
    @click.command(question, help=text, epilog=f"Example: {example}")
    @as_json_option
    @click.pass_obj
    def command(config: Path, as_json: bool) -> None:
        rows = ask(data_dir(config), question)
        if as_json:
            _printed(rows)
        else:
            _table(rows, columns)

    return command


latest = _listing(
    "latest",
    ("entity", "key", "value", "unit", "time_ns"),
    "List the newest reading of every series.",
    "edgesync latest --json",
)


@click.command(epilog="Example: edgesync status --json | jq .link.state")
@as_json_option
@click.pass_obj
def status(config: Path, as_json: bool) -> None:
    """Show how the running edge is."""
    found = ask(data_dir(config), "status")
    if as_json:
        _printed(found)
        return
    link, store = found["link"], found["store"]
    click.echo(f"edge      {found['edge']}, up {found['uptime_s']:.0f} s, {found['version']}")
    problem = f" ({link['problem']})" if link["problem"] else ""
    click.echo(f"link      {link['state']} {link['endpoint']}{problem}")
    click.echo(f"stored    {found['readings']} readings, {found['events']} events since the start")
    used, limit = store["used_bytes"] / 1e6, store["limit_bytes"] / 1e6
    click.echo(f"store     {used:.1f} of {limit:.0f} MB {store['problem']}")
    if found["resource_level"] != "unwatched":
        click.echo(f"resources {found['resource_level']}")
    _table(found["lanes"], ("lane", "tail", "sent", "floor", "safe", "trimmed", "pending"))
    if found["sources"]:
        _table(found["sources"], ("name", "state", "age_s", "polls", "readings", "errors"))


@click.command(epilog="Example: edgesync queue --replay")
@click.option("--replay", is_flag=True, help="Append the dead records once more.")
@as_json_option
@click.pass_obj
def queue(config: Path, replay: bool, as_json: bool) -> None:
    """Show what waits for the hub, and what it refused for good."""
    folder = data_dir(config)
    if replay:
        _printed(ask(folder, "replay"))
        return
    found, dead = ask(folder, "status"), ask(folder, "dead")
    if as_json:
        _printed({"lanes": found["lanes"], "dead": dead})
        return
    columns = ("lane", "tail", "sent", "floor", "pending", "stored_bytes", "overflow", "dropped")
    _table(found["lanes"], columns)
    if dead:
        _table(dead, ("lane", "seq", "reason", "at_ns"))


def _query_options(command: Callable[..., None]) -> Callable[..., None]:
    for name in ("lane", "type", "action", "entity", "state", "text"):
        command = click.option(f"--{name}", default="", help=f"Only this {name}.")(command)
    return command


@click.command(epilog="Example: edgesync events --type LIFECYCLE --state PENDING")
@_query_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json_option
@click.pass_obj
def events(config: Path, /, as_json: bool, **query: Any) -> None:
    """List events of the journal, the newest first."""
    rows = ask(data_dir(config), "events", query=query)
    if as_json:
        _printed(rows)
    else:
        _table(rows, ("lane", "seq", "type", "action", "entity", "time_ns", "state", "body"))


@click.command(epilog="Example: edgesync sync --timeout 60 && poweroff")
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds.")
@click.pass_obj
def sync(config: Path, timeout_s: float) -> None:
    """Wait until the hub durably has everything stored so far; exit code 69 if not in time."""
    ask(data_dir(config), "sync", timeout_s=timeout_s)
    click.echo("the hub has everything")
