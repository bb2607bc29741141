"""`edgesync status | queue | events | latest | sync`: questions to the daemon, or to its files.

While no daemon runs, what is stored answers, opened for reading only.
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgesync.cli.program import as_json_option
from edgesync.cli.tables import print_table
from edgesync.serve.control import NotRunning, ask
from edgesync.settings import read_settings

# Points without a value that the status lists of each device.
POINTS_SHOWN = 10
# Failing nodes of rule chains that it lists.
NODES_SHOWN = 5


def data_dir(config: Path) -> Path:
    settings = read_settings(config)
    return (config.parent / settings.edge.data_dir).absolute()


def answer(config: Path, question: str, **facts: Any) -> Any:
    """Ask the daemon; while none runs, let what is on the disk answer. Raises NotRunning."""
    folder = data_dir(config)
    try:
        return ask(folder, question, **facts)
    except NotRunning:
        from edgesync.node import STORE
        from edgesync.store.directory import is_there

        if not is_there(folder / STORE):
            raise
    click.echo(f"no daemon runs in {folder}; this is what is stored there", err=True)
    return _stored_answer(config, question, **facts)


def _stored_answer(config: Path, question: str, **facts: Any) -> Any:
    import msgspec

    from edgesync.events import EventQuery
    from edgesync.node import EdgeNode

    with EdgeNode.stored(config) as node:
        match question:
            case "status":
                found: Any = node.status()
            case "latest":
                found = node.latest()
            case "dead":
                found = node.dead()
            case "objects":
                found = node.objects.status()["objects"]
            case _:
                found = node.events(msgspec.convert(facts["query"], EventQuery))
        return msgspec.to_builtins(found)


def _printed(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    print_table(table)


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
        rows = answer(config, question)
        if as_json:
            _printed(rows)
        else:
            _table(rows, columns)

    return command


latest = _listing(
    "latest",
    ("entity", "key", "value", "unit", "time_ns"),
    "List the newest reading of each series since the start of the daemon.\n\n"
    "While no daemon runs: of each series in the newest 20,000 records of the store.",
    "edgesync latest --json",
)


def _show_rules(rules: Mapping[str, Any]) -> None:
    """Show how the rule chains are: nodes that fail, each with its last reason."""
    failing = [one for one in rules["nodes"] if one["failures"]]
    click.echo(
        f"rules     {rules['root'] or 'none run: all is stored and sent'}: {rules['messages']} "
        f"messages, {sum(one['failures'] for one in failing)} failures, "
        f"{rules['unhandled']} of them unhandled"
    )
    if rules["problem"]:
        click.echo(f"          not taken: {rules['problem']}")
    for one in failing[:NODES_SHOWN]:
        click.echo(
            f"          {one['chain']} / {one['node']}: {one['failures']} of {one['messages']} "
            f"failed, the last: {one['last_error']}"
        )


@click.command(epilog="Example: edgesync status --json | jq .link.state")
@as_json_option
@click.pass_obj
def status(config: Path, as_json: bool) -> None:
    """Show how the edge is: link, store, what waits for the hub, devices.

    Of each lane: tail is the newest record stored, sent the newest handed to the link, floor the
    newest the hub has on its disk, safe the newest in its backups too, trimmed the newest that is
    no longer kept here; pending is what waits for the hub.
    """
    found = answer(config, "status")
    if as_json:
        _printed(found)
        return
    link, store = found["link"], found["store"]
    state = f"up {found['uptime_s']:.0f} s" if found["running"] else "not running"
    click.echo(f"edge      {found['edge']}, {state}, {found['version']}")
    problem = f" ({link['problem']})" if link["problem"] else ""
    via = f" through {link['via']}" if link.get("via") else ""
    click.echo(f"link      {link['state']} {link['endpoint']}{via}{problem}")
    if link["slowed"]:
        click.echo(f"slowed    {link['slowed']}")
    for one in found["indicators"]:
        click.echo(f"{one['level']:<9} {one['text']}")
    if found["granted"]:
        click.echo(f"keys      the hub tells of {', '.join(found['granted'])} only")
    if keys := found["keys"]:
        click.echo(f"keys      {_shown_keys(keys)}")
    click.echo(f"stored    {found['readings']} readings, {found['events']} events since the start")
    if found["series_refused"]:
        click.echo(
            f"series    {found['series_refused']} readings left out: more names than [series] max "
            f"({found['series_max']})"
        )
    used, limit = store["used_bytes"] / 1e6, store["limit_bytes"] / 1e6
    click.echo(f"store     {used:.1f} of {limit:.0f} MB {store['problem']}".rstrip())
    if mqtt := found["mqtt"]:
        problem = f" ({mqtt['problem']})" if mqtt["problem"] else ""
        click.echo(
            f"mqtt      {mqtt['clients']} clients, {mqtt['messages']} messages, "
            f"{mqtt['refused']} of them refused, {mqtt['rejected']} not let in"
            f"{_held_up(mqtt)}{problem}"
        )
        _last_refused(mqtt["refusals"])
    if http := found["device_http"]:
        problem = f" ({http['problem']})" if http["problem"] else ""
        click.echo(
            f"devices   {http['connections']} connections, {http['requests']} requests, "
            f"{http['refused']} of them refused, {http['rejected']} not let in"
            f"{_held_up(http)}{problem}"
        )
        _last_refused(http["refusals"])
    if rules := found["rules"]:
        _show_rules(rules)
    if (again := found["resend"]) and not again["is_done"]:
        share = f"{again['share']:.0%} {again['problem']}"
        click.echo(f"resend    {again['readings']} readings, {share}")
    if (objects := found["objects"]) and objects["objects"]:
        _show_objects(objects)
    for one in (found["tunnels"] or {"open": ()})["open"]:
        click.echo(f"tunnel    {one['tunnel']} to {one['target']} by {one['by']}")
    if found["resource_level"] != "unwatched":
        worst = ", ".join(found["resources_worst"])
        click.echo(f"resources {found['resource_level']}{worst and ': ' + worst}")
    _table(found["lanes"], ("lane", "tail", "sent", "floor", "safe", "trimmed", "pending"))
    if found["sources"]:
        columns = ("name", "state", "age_s", "polls", "readings", "errors", "unread")
        unread = [len(source["invalid_points"]) or "" for source in found["sources"]]
        rows = [source | {"unread": n} for source, n in zip(found["sources"], unread, strict=True)]
        _table(rows, columns)
        for source in found["sources"]:
            for line in troubles(source):
                click.echo(line)


def _held_up(door: dict[str, Any]) -> str:
    count = door["held_up"]
    return f", {count} held up: their addresses guess" if count else ""


def _shown_keys(keys: Mapping[str, Any]) -> str:
    text = f"{keys['keys']}, {keys['state'].replace('_', ' ')}"
    if keys["share"] is not None and keys["state"] in ("full_sync", "syncing"):
        text += f": {keys['share']:.0%} of what is new at the hub is here"
    if keys["pending"]:
        text += f"; {keys['pending']} operations are not at the hub yet"
    return text + (f" ({keys['problem']})" if keys["problem"] else "")


def _show_objects(objects: Mapping[str, Any]) -> None:
    found = objects["objects"]
    held = sum(one["standing"] in ("held", "kept") for one in found)
    problem = f" ({objects['problem']})" if objects["problem"] else ""
    click.echo(f"objects   {held} of {len(found)} held{problem}")
    for one in found:
        if one["standing"] == "refused":
            click.echo(f"          {one['name']} is not fetched: {one['reason']}")


def _last_refused(refusals: Sequence[Mapping[str, Any]]) -> None:
    for one in refusals[-1:]:
        click.echo(f"          last refused: {one['device']} {one['topic']}: {one['problem']}")


def troubles(source: Mapping[str, Any]) -> list[str]:
    """Say why a device is not online, or which of its points have no value and why."""
    name, points = source["name"], source["invalid_points"]
    if source["state"] != "online":
        return [f"{name}: {source['state']}: {source['last_error']}"] * bool(source["last_error"])
    listed = [f"{name}: no value of {key}: {why}" for key, why in points.items()][:POINTS_SHOWN]
    more = len(points) - len(listed)
    return [*listed, f"{name}: and {more} more (--json lists them)"] if more else listed


@click.command(epilog="Example: edgesync queue --replay")
@click.option("--replay", is_flag=True, help="Append the dead records once more.")
@as_json_option
@click.pass_obj
def queue(config: Path, replay: bool, as_json: bool) -> None:
    """Show what waits for the hub, and what was refused for good."""
    if replay:
        _printed(ask(data_dir(config), "replay"))
        return
    found, dead = answer(config, "status"), answer(config, "dead")
    if as_json:
        _printed({"lanes": found["lanes"], "dead": dead})
        return
    columns = ("lane", "tail", "sent", "floor", "pending", "stored_bytes", "overflow", "dropped")
    _table(found["lanes"], columns)
    if dead:
        _table(dead, ("lane", "seq", "device", "reason", "at_ns"))


def _query_options(command: Callable[..., None]) -> Callable[..., None]:
    for name in ("lane", "type", "action", "entity", "state", "text"):
        command = click.option(f"--{name}", default="", help=f"Only this {name}.")(command)
    return command


@click.command(epilog="Example: edgesync events --type LIFECYCLE --state PENDING")
@_query_options
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Most events."
)
@as_json_option
@click.pass_obj
def events(config: Path, /, as_json: bool, **query: Any) -> None:
    """List events of the journal, the newest first."""
    rows = answer(config, "events", query=query)
    if as_json:
        _printed(rows)
    else:
        _table(rows, ("lane", "seq", "type", "action", "entity", "time_ns", "state", "body"))


@click.command(epilog="Example: edgesync sync --timeout 60 && poweroff")
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds.")
@click.option(
    "--full", is_flag=True,
    help="Ask for attributes, relations and rule chains, and compare all that is shared.",
)  # fmt: skip
@click.pass_obj
def sync(config: Path, timeout_s: float, full: bool) -> None:
    """Wait until the hub durably has everything stored so far; exit code 69 if not in time."""
    ask(data_dir(config), "sync", timeout_s=timeout_s, full=full)
    click.echo("the hub has everything")
