"""`hubd rules …`: rule chains kept at the hub, and which edge runs which."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from edgesync.cli.program import EX_CONFIG, as_json_option
from edgesync.errors import ConfigError
from edgesync.rules.files import paths_of, read_file
from edgesync.serve.control import ask_hub
from hubd.cli.edges import checked_name, registry_for
from hubd.cli.options import checked_text, database_option, settings_of
from hubd.registry import DEFAULT_TENANT
from hubd.rules.bundles import Bundles, BundleView, RulesRefused
from hubd.settings import data_dir
from hubd.web.format import moment

_tenant_option = click.option(
    "--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose bundles."
)
_version_option = click.option(
    "--version", default=0, type=click.IntRange(0), help="Of the bundle; its newest if left out."
)

STATES: Final = {
    "none": "has no chains of the hub",
    "waiting": "has not told that it has {}",
    "running": "runs {}",
    "refused": "does not run {}",
    "local": "goes by chains of its own; it is assigned {}",
    "kept": "runs what this hub does not know of; `hubd rules unassign` ends that, `assign` has it "
    "run something else",
}


@contextlib.contextmanager
def _bundles_of(config: Path, tenant: str) -> Iterator[Bundles]:
    with registry_for(config, tenant) as registry:
        yield Bundles(registry.owned)


@click.group(epilog="Example: hubd rules upload cold-room/ && hubd rules assign cold-room barn-7")
def rules() -> None:
    """Keep rule chains for edges, in bundles with versions, and say which edge runs which.

    A bundle is checked as the edges check it. docs/rules.md has what happens at the edge.
    """


@rules.command(epilog="Example: hubd rules upload cold-room/ --name cold-room")
@click.argument("places", metavar="FILE|FOLDER…", nargs=-1, required=True,
                type=click.Path(exists=True, path_type=Path))  # fmt: skip
@click.option("--name", default="", help="Of the bundle; the first file's or folder's if left out.")
@click.option("--root", default="", callback=checked_text, help="Where messages begin.")
@_tenant_option
@as_json_option
@database_option
@click.pass_obj
def upload(
    config: Path, places: Sequence[Path], name: str, root: str, tenant: str, as_json: bool
) -> None:  # fmt: skip
    """Keep exports as the next version of a bundle; 78 and every mistake if they are wrong.

    No edge changes by it: `hubd rules assign` does that.
    """
    first = places[0].resolve()
    name = name or (first.name if first.is_dir() else first.stem)
    checked_name(click.get_current_context(), None, name)  # type: ignore[arg-type]
    try:
        files = _read(places)
        with _bundles_of(config, tenant) as bundles:
            made = bundles.upload(tenant, name, files, root=root)
    except RulesRefused as refused:
        _tell_mistakes(refused, as_json)
        raise SystemExit(EX_CONFIG) from refused
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(made)))
        return
    facts = made.facts
    click.echo(f"{name} {made.version} is kept: {len(facts.chains)} chains, {facts.nodes} nodes")
    _show_facts(made)
    click.echo(f"next: hubd rules assign {name} EDGE…")


def _read(places: Sequence[Path]) -> dict[str, str]:
    """Return the text of every export; raises RulesRefused for those that cannot be read."""
    files: dict[str, str] = {}
    mistakes: list[ConfigError] = []
    for path in [path for place in places for path in paths_of(place)]:
        try:
            if path.name in files:
                raise _wrong(path.name, "is given twice", "rename one of them")
            files[path.name] = read_file(path).decode()
        except UnicodeDecodeError:
            mistakes.append(_wrong(path.name, "is not UTF-8", "export the chain anew"))
        except ConfigError as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise RulesRefused(mistakes)
    return files


def _wrong(file: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(file=file, field="(file)", problem=problem, remedy=remedy)


def _tell_mistakes(refused: RulesRefused, as_json: bool) -> None:
    if not as_json:
        click.echo(f"nothing is kept:\n{refused}", err=True)
        return
    told = [
        {name: getattr(one, name) for name in ("file", "field", "problem", "remedy")}
        for one in refused.mistakes
    ]
    click.echo(json.dumps({"error": str(refused), "mistakes": told, "exit_code": EX_CONFIG}))


def _show_facts(one: BundleView) -> None:
    click.echo(f"  root         {one.facts.root}")
    for file, origin in one.facts.taken.items():
        click.echo(f"  taken along  {file.partition('/')[2]} of {origin}")
    if one.facts.profiles:
        click.echo(f"  profiles     {', '.join(one.facts.profiles)}")
    for doubt in one.facts.doubts:
        click.echo(f"  doubtful     {doubt}")


@rules.command("list", epilog="Example: hubd rules list --json")
@click.option("--tenant", default="", help="Of one tenant.")
@as_json_option
@database_option
@click.pass_obj
def list_(config: Path, tenant: str, as_json: bool) -> None:
    """List the bundles, each with its versions and the edges that are to run them."""
    with _bundles_of(config, tenant) as bundles:
        found = bundles.all(tenant or None)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    for one in found:
        whose = "" if one.tenant == DEFAULT_TENANT else f" of {one.tenant}"
        runs = f", for {', '.join(one.edges)}" if one.edges else ""
        click.echo(f"{one.name} {one.version}{whose}: {moment(one.created_ns)}{runs}")


@rules.command(epilog="Example: hubd rules show cold-room --to backup/")
@click.argument("bundle")
@_version_option
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False),
              help="Write its exports into this folder.")  # fmt: skip
@_tenant_option
@as_json_option
@database_option
@click.pass_obj
def show(
    config: Path, bundle: str, version: int, folder: Path | None, tenant: str, as_json: bool
) -> None:  # fmt: skip
    """Show a version of BUNDLE, its newest if none is named."""
    with _bundles_of(config, tenant) as bundles:
        found = bundles.one(tenant, bundle, version)
        kept = bundles.bundle(tenant, bundle, found.version)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for file, raw in kept.contents().items():
            (folder / file.replace("/", " ")).write_bytes(raw)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    click.echo(f"{found.name} {found.version}, made {moment(found.created_ns)}")
    _show_facts(found)
    for chain in found.facts.chains:
        click.echo(f"  chain        {chain}")
    click.echo(f"  edges        {', '.join(found.edges) or '(none)'}")


@rules.command(epilog="Example: hubd rules assign cold-room barn-7 barn-8 --version 3")
@click.argument("bundle")
@click.argument("edges", metavar="EDGE…", nargs=-1, required=True)
@_version_option
@_tenant_option
@database_option
@click.pass_obj
def assign(config: Path, bundle: str, edges: Sequence[str], version: int, tenant: str) -> None:
    """Have each EDGE run BUNDLE, in place of what it ran: all of them or none.

    It waits for an edge that is away. An edge with `[rules] chains` of its own goes on with those.
    """
    with _bundles_of(config, tenant) as bundles:
        made = bundles.assign(tenant, bundle, edges, version=version)
    click.echo(f"{bundle} {made[0].version} is for {', '.join(one.edge for one in made)}")


@rules.command(epilog="Example: hubd rules unassign barn-7")
@click.argument("edges", metavar="EDGE…", nargs=-1, required=True)
@_tenant_option
@database_option
@click.pass_obj
def unassign(config: Path, edges: Sequence[str], tenant: str) -> None:
    """Let each EDGE store and send everything again, or go by the chains it has of its own."""
    with _bundles_of(config, tenant) as bundles:
        had = bundles.unassign(tenant, edges)
    click.echo(f"without a bundle now: {', '.join(had) or '(none had one that this hub knew of)'}")


@rules.command(epilog="Example: hubd rules status barn-7")
@click.argument("edge")
@as_json_option
@click.pass_obj
def status(config: Path, edge: str, as_json: bool) -> None:
    """Show what EDGE is to run, what it runs as far as it has told, and what nodes have counted."""
    found = ask_hub(data_dir(config, settings_of(config)), "rules", query={"edge": edge})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    assigned, at = found["assigned"], found["told_ns"]
    wanted = f"{assigned['bundle']} {assigned['version']}" if assigned else "no bundle"
    click.echo(f"{edge}: {STATES[found['state']].format(wanted)}")
    if at:
        runs = {"hub": f"{found['bundle']} {found['version']}", "local": "chains of its own"}
        click.echo(f"  runs         {runs.get(found['source'], 'none')}, told {moment(at)}")
    for reason in (*found["refused"], *filter(None, [found["problem"]])):
        click.echo(f"  because      {reason}")
    for one in found["nodes"]:
        failed = f", {one['failures']} failures: {one['last_error']}" if one["failures"] else ""
        click.echo(f"  {one['chain']} / {one['name']}: {one['messages']} messages{failed}")


@rules.command(epilog="""Example: hubd rules run cold-room --edge barn-7 --message '{"t": 7.5}'""")
@click.argument("bundle")
@click.option("--edge", required=True, help="Whose entities are meant.")
@click.option("--message", default="", callback=checked_text,
              help="Its data as JSON; without, the newest readings of the entity.")  # fmt: skip
@click.option("--entity", default="device", show_default=True, callback=checked_text,
              help="The device it is about, or KIND:NAME.")  # fmt: skip
@click.option("--type", "kind", default="POST_TELEMETRY_REQUEST", show_default=True)
@_version_option
@as_json_option
@click.pass_obj
def run(
    config: Path, bundle: str, edge: str, message: str, entity: str, kind: str, version: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Try BUNDLE out with a message, in a running hub: nothing is stored or sent.

    Attributes are those the hub knows of the entity. What a node would look up besides, readings of
    before, related entities, alarm rules of device profiles, is not there.
    """
    about, colon, name = entity.partition(":")
    body: dict[str, object] = {
        "bundle": bundle, "version": version, "type": kind,
        "entity": name if colon else entity, "kind": about.lower() if colon else "device",
    }  # fmt: skip
    if message:
        try:
            body["message"] = json.loads(message)
        except ValueError as error:
            raise click.BadParameter(f"no JSON: {error}", param_hint="--message") from None
    folder = data_dir(config, settings_of(config))
    found = ask_hub(folder, "rules_run", edge=edge, body=body)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['bundle']} {found['version']} with {json.dumps(found['message'])}")
    for visit in found["visits"]:
        outs = ", ".join(out["relation"] for out in visit["outs"]) or "(nothing)"
        click.echo(f"{visit['chain']} / {visit['node']}: {visit['problem'] or outs}")
        for effect in visit["effects"]:
            click.echo(f"    {json.dumps(effect, ensure_ascii=False)}")


@rules.command(epilog="Example: hubd rules remove cold-room")
@click.argument("bundle")
@_tenant_option
@database_option
@click.pass_obj
def remove(config: Path, bundle: str, tenant: str) -> None:
    """Forget BUNDLE with all its versions; refused while an edge is to run it."""
    with _bundles_of(config, tenant) as bundles:
        count = bundles.remove(tenant, bundle)
    click.echo(f"{bundle} is forgotten, {count} versions")
