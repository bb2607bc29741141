"""`edgesync objects …`: large objects that the hub has assigned to this edge."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgesync.cli.ask import answer, data_dir
from edgesync.cli.program import as_json_option
from edgesync.errors import EdgesyncError
from edgesync.objects.files import FOLDER


@click.group(epilog="Example: edgesync objects list --json")
def objects() -> None:
    """Show the large objects of this edge: models, images, whatever the hub has it hold."""


@objects.command("list", epilog="Example: edgesync objects list --json")
@as_json_option
@click.pass_obj
def list_(config: Path, as_json: bool) -> None:
    """List the objects, and how each stands."""
    found = _objects(config)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found["objects"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        moved = f"{one['have']} of {one['size']} bytes"
        click.echo(f"{one['name']}: {one['standing']}, {moved}{reason}")
    click.echo(f"{found['used_bytes']} of {found['limit_bytes']} bytes are taken")
    if found["problem"]:
        click.echo(f"nothing goes on: {found['problem']}")


@objects.command(epilog="Example: cp $(edgesync objects show model --path) model.onnx")
@click.argument("name")
@click.option("--path", "only_path", is_flag=True, help="Print only where its bytes are.")
@as_json_option
@click.pass_obj
def show(config: Path, name: str, only_path: bool, as_json: bool) -> None:
    """Show the object NAME, and where its bytes are once they are all here."""
    one = next((one for one in _objects(config)["objects"] if one["name"] == name), None)
    if one is None:
        raise EdgesyncError(f"no object {name!r} here; `edgesync objects list` lists them")
    is_here = one["standing"] in ("held", "kept")
    path = str(data_dir(config) / FOLDER / one["sha256"]) if is_here else ""
    if as_json:
        click.echo(json.dumps({**one, "path": path}, indent=2))
        return
    if only_path:
        if not path:
            raise EdgesyncError(f"{name} is {one['standing']}; `edgesync objects show {name}`")
        click.echo(path)
        return
    click.echo(f"{name}: {one['standing']}, {one['have']} of {one['size']} bytes")
    click.echo(f"  SHA-256  {one['sha256']}")
    for title, text in (("because", one["reason"]), ("path", path)):
        if text:
            click.echo(f"  {title:<7}  {text}")


def _objects(config: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = answer(config, "objects")
    if found is None:
        raise EdgesyncError("this edge has no hub, and so no objects")
    return found
