"""`hubd object …`: large files kept at the hub, and which edge is to hold which."""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from edgesync.cli.program import as_json_option
from edgesync.serve.control import ask_hub
from hubd.cli.edges import checked_name, registry_for
from hubd.cli.options import database_option, settings_of
from hubd.objects.store import FOLDER, Objects, ObjectView
from hubd.registry import DEFAULT_TENANT
from hubd.settings import data_dir
from hubd.web.format import moment

_tenant_option = click.option(
    "--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose objects."
)
_edges_argument = click.argument("edges", metavar="EDGE…", nargs=-1)
_all_option = click.option("--all", "is_all", is_flag=True, help="All edges of the tenant.")


@contextlib.contextmanager
def _objects_of(config: Path, tenant: str) -> Iterator[Objects]:
    settings = settings_of(config)
    with registry_for(config, tenant) as registry:
        yield Objects(registry.owned, data_dir(config, settings) / FOLDER, settings.objects)


@click.group(epilog="Example: hubd object put model.onnx && hubd object assign model.onnx --all")
def object() -> None:
    """Keep large files for edges: dashboards, images, models.

    An edge fetches what it is assigned in parts, goes on after a cut where it was, and shows it
    only when it is whole. docs/objects.md has the rest.
    """


@object.command(epilog="Example: hubd object put build/model.onnx --name model")
@click.argument("file", type=click.File("rb"))
@click.option("--name", default="", help="Of the object; that of the file if left out.")
@_tenant_option
@as_json_option
@database_option
@click.pass_obj
def put(config: Path, file: BinaryIO, name: str, tenant: str, as_json: bool) -> None:
    """Keep the bytes of FILE under a name, in place of what had it; - is the standard input.

    Edges that are to hold that name fetch the new bytes, and have the old ones until then.
    """
    given = name or Path(getattr(file, "name", "")).name
    try:
        checked_name(click.get_current_context(), None, given)  # type: ignore[arg-type]
    except click.BadParameter as error:
        raise click.UsageError(f"{given!r} is no name: {error.message}; say --name") from None
    with _objects_of(config, tenant) as objects:
        made = objects.put(tenant, given, file)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(made)))
        return
    click.echo(f"{made.name} is kept: {made.size} bytes, SHA-256 {made.sha256}")
    for_edges = f"for {', '.join(made.edges)}" if made.edges else "assigned to no edge yet"
    click.echo(f"  {for_edges}")


@object.command("list", epilog="Example: hubd object list --json")
@click.option("--tenant", default="", help="Of one tenant.")
@as_json_option
@database_option
@click.pass_obj
def list_(config: Path, tenant: str, as_json: bool) -> None:
    """List the objects, each with the edges that are to hold it."""
    with _objects_of(config, tenant) as objects:
        found = objects.all(tenant or None)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    for one in found:
        whose = "" if one.tenant == DEFAULT_TENANT else f" of {one.tenant}"
        edges = f", for {', '.join(one.edges)}" if one.edges else ""
        click.echo(f"{one.name}{whose}: {one.size} bytes, {moment(one.created_ns)}{edges}")


@object.command(epilog="Example: hubd object get model --to model.onnx")
@click.argument("name")
@click.option("--to", "target", type=click.Path(path_type=Path, dir_okay=False),
              help="Write it into this file; without, to the standard output.")  # fmt: skip
@_tenant_option
@database_option
@click.pass_obj
def get(config: Path, name: str, target: Path | None, tenant: str) -> None:
    """Write the bytes of the object NAME."""
    with _objects_of(config, tenant) as objects:
        one = objects.one(tenant, name)
        with objects.path(one.sha256).open("rb") as source:
            if target is None:
                shutil.copyfileobj(source, sys.stdout.buffer)
                return
            if target.exists() and not target.is_file():  # a device or a pipe is written into
                with target.open("wb") as out:
                    shutil.copyfileobj(source, out)
            else:
                _replace(target.resolve(), source, one)
    click.echo(f"{target}: {one.size} bytes")


def _replace(target: Path, source: BinaryIO, one: ObjectView) -> None:
    """Let `target` hold an object: whoever reads it has the old bytes or all of the new ones."""
    draft = target.with_name(f"{target.name}.draft")
    try:
        with draft.open("w+b") as out:
            shutil.copyfileobj(source, out)
            out.seek(0)
            found = hashlib.file_digest(out, "sha256").hexdigest()
        if found != one.sha256:
            raise click.ClickException(f"{one.name} is damaged at this hub; put it again")
        if target.exists():
            shutil.copymode(target, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@object.command(epilog="Example: hubd object assign model barn-7 barn-8")
@click.argument("name")
@_edges_argument
@_all_option
@_tenant_option
@database_option
@click.pass_obj
def assign(config: Path, name: str, edges: Sequence[str], is_all: bool, tenant: str) -> None:
    """Have each EDGE hold the object NAME, all or none; one that is away fetches it later."""
    _check_chosen(edges, is_all)
    with _objects_of(config, tenant) as objects:
        chosen = objects.assign(tenant, name, edges)
    click.echo(f"{name} is for {', '.join(chosen) or '(there are no edges)'}")


@object.command(epilog="Example: hubd object unassign model barn-7")
@click.argument("name")
@_edges_argument
@_all_option
@_tenant_option
@database_option
@click.pass_obj
def unassign(config: Path, name: str, edges: Sequence[str], is_all: bool, tenant: str) -> None:
    """Have each EDGE remove what it holds under NAME; this hub need not have such an object."""
    _check_chosen(edges, is_all)
    with _objects_of(config, tenant) as objects:
        chosen = objects.unassign(tenant, name, edges)
    click.echo(f"{name} is to be removed at {', '.join(chosen) or '(there are no edges)'}")


def _check_chosen(edges: Sequence[str], is_all: bool) -> None:
    if bool(edges) == is_all:
        raise click.UsageError("name edges, or say --all and name none")


@object.command(epilog="Example: hubd object remove model")
@click.argument("name")
@_tenant_option
@database_option
@click.pass_obj
def remove(config: Path, name: str, tenant: str) -> None:
    """Forget the object NAME; refused while an edge is to hold it."""
    with _objects_of(config, tenant) as objects:
        objects.remove(tenant, name)
    click.echo(f"{name} is forgotten")


@object.command(epilog="Example: hubd object status barn-7")
@click.argument("edge")
@as_json_option
@click.pass_obj
def status(config: Path, edge: str, as_json: bool) -> None:
    """Show what EDGE is to hold, and how it stands there as far as it has told."""
    found = ask_hub(data_dir(config, settings_of(config)), "objects", query={"edge": edge})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    told = f"told {moment(found['told_ns'])}" if found["told_ns"] else "has told nothing yet"
    late = "" if found["is_current"] else ", not by what is assigned now"
    click.echo(f"{edge}: {told}{late}")
    for one in found["objects"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        moved = f"{one['have']} of {one['size']} bytes"
        click.echo(f"  {one['name']}: {one['standing']}, {moved}{reason}")
