"""`edgesync rules …`: chains checked, tried out with a message, and shown."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesync.cli.program import EX_CONFIG, as_json_option
from edgesync.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from edgesync.model import Value
    from edgesync.rules.files import Rules
    from edgesync.rules.message import Originator

SECOND_NS = 1_000_000_000


@click.group(epilog="Example: edgesync rules check rules/ && edgesync rules run rules/ --message …")
def rules() -> None:
    """Check rule chains, or try them out with a message: nothing is stored or sent."""


_root_option = click.option("--root", default="", help="The chain that messages begin in.")
_place = click.argument("place", metavar="FILE", type=click.Path(exists=True, path_type=Path))


@rules.command(epilog="Example: edgesync rules check cold-room.json --json")
@_place
@_root_option
@as_json_option
def check(place: Path, root: str, as_json: bool) -> None:
    """Check the export in FILE, or a folder of them; 78 and all mistakes if it is wrong."""
    found = _read(place, root, as_json)
    chains = found.loaded.chains
    scripts = {source.id for source in found.loaded.scripts}
    facts = {
        "root": chains.root,
        "chains": list(chains.firsts),
        "nodes": len(chains.nodes),
        "scripts_in_worker": len(scripts),
        "profiles": sorted(found.profiles),
        "doubts": list(found.loaded.doubts),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{place} is good: {len(chains.firsts)} chains, {len(chains.nodes)} nodes")
    click.echo(f"  root         {chains.root}")
    if scripts:
        click.echo(f"  worker       runs {len(scripts)} scripts that are no single expression")
    if found.profiles:
        click.echo(f"  profiles     {', '.join(sorted(found.profiles))}")
    for doubt in found.loaded.doubts:
        click.echo(f"  doubtful     {doubt}")


@rules.command(epilog="""Example: edgesync rules run chain.json --message '{"t": 7.5}'""")
@_place
@_root_option
@click.option(
    "--message", "data", required=True, help="Its data: JSON, or @FILE with a JSON a line."
)
@click.option(
    "--type", "kind", default="POST_TELEMETRY_REQUEST", show_default=True, help="Of the message."
)
@click.option("--entity", default="DEVICE:device", show_default=True, help="KIND:NAME it is about.")
@click.option("--metadata", multiple=True, metavar="NAME=TEXT", help="May be given several times.")
@click.option("--attribute", multiple=True, metavar="SCOPE.NAME=JSON", help="Known of the entity.")
@click.option("--wait", "wait_s", default=0.0, help="Seconds to let pass: delays and windows end.")
@as_json_option
def run(
    place: Path, root: str, data: str, kind: str, entity: str, metadata: Sequence[str],
    attribute: Sequence[str], wait_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Let a message go through the chains of FILE, and show what each node makes of it."""
    from edgesync.rules.dryrun import DryRun, effect_of, visit_of
    from edgesync.rules.message import Message, Originator

    found = _read(place, root, as_json)
    entity_kind, colon, name = entity.partition(":")
    if not colon or not name:
        raise click.UsageError("--entity is KIND:NAME, as in DEVICE:tank7")
    originator = Originator(entity_kind, name)
    now_ns = time.time_ns()
    known = {"deviceName": name, "deviceType": "default", "ts": str(now_ns // 1_000_000)}
    known |= dict(_pairs("--metadata", metadata))
    dry = DryRun(found, _attributes(originator, attribute), now_ns)
    try:
        for one in _messages(data):
            message = Message(
                type=kind, originator=originator, data=one, metadata=known, time_ns=now_ns
            )
            dry.send(message)
        if wait_s:
            dry.wait(wait_s)
    finally:
        dry.close()
    visits = [visit_of(one) for one in dry.visits]
    if as_json:
        effects = [effect_of(effect) for effect in dry.effects]
        click.echo(json.dumps({"visits": visits, "effects": effects}, indent=2))
        return
    for visit in visits:
        outs = ", ".join(out["relation"] for out in visit["outs"]) or "(nothing)"
        click.echo(f"{visit['chain']} / {visit['node']}: {visit['problem'] or outs}")
        for effect in visit["effects"]:
            click.echo(f"    {json.dumps(effect, ensure_ascii=False)}")


@rules.command(epilog="Example: edgesync rules default > rules/root.json")
def default() -> None:
    """Print the default root chain of an edge, as an export to begin with."""
    from edgesync.rules.defaults import default_chain

    click.echo(default_chain().decode())


@rules.command(epilog="Example: edgesync rules nodes --json")
@as_json_option
def nodes(as_json: bool) -> None:
    """List the node types that run here, with the relations by which messages leave them."""
    from edgesync.rules.catalog import NODES

    rows = [
        {"type": name, "relations": sorted(kind.relations) if kind.relations else ["any label"]}
        for name, kind in sorted(NODES.items())
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        shown = ", ".join(row["relations"][:6]) + (" …" if len(row["relations"]) > 6 else "")
        click.echo(f"{row['type']:42} {shown}")


def _read(place: Path, root: str, as_json: bool) -> "Rules":
    """Return what is in the files; with all mistakes in JSON where that is wanted."""
    from edgesync.rules.files import read_rules

    try:
        return read_rules(place, root=root)
    except ConfigError as error:
        mistakes = error.mistakes if isinstance(error, ConfigErrors) else (error,)
        if not as_json or len(mistakes) == 1:
            raise
        told = [
            {name: getattr(one, name) for name in ("file", "field", "problem", "remedy")}
            for one in mistakes
        ]
        click.echo(json.dumps({"error": str(error), "mistakes": told, "exit_code": EX_CONFIG},
                              indent=2))  # fmt: skip
        raise SystemExit(EX_CONFIG) from error


def _pairs(option: str, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} is NAME=TEXT, not {one!r}")
        yield name, text


def _attributes(
    entity: "Originator", given: Sequence[str]
) -> "Mapping[tuple[Originator, str], dict[str, Value]]":
    found: dict[tuple[Originator, str], dict[str, Value]] = {}
    for name, text in _pairs("--attribute", given):
        scope, dot, key = name.partition(".")
        if not dot or scope not in ("client", "server", "shared"):
            raise click.UsageError("--attribute is SCOPE.NAME=JSON; client, server or shared")
        found.setdefault((entity, scope), {})[key] = _json("--attribute", text)
    return found


def _messages(given: str) -> Iterator[Any]:
    if not given.startswith("@"):
        yield _json("--message", given)
        return
    for line in Path(given[1:]).read_text().splitlines():
        if line.strip():
            yield _json("--message", line)


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is no JSON: {error}") from error
