"""`hubd tenant …`: whom edges and what they sent belong to, and who may ask for it."""

import contextlib
import json
from pathlib import Path

import click

from edgesync.cli.program import as_json_option
from hubd.cli.edges import checked_name, registry_for, registry_of
from hubd.cli.options import checked_text, database_option
from hubd.cli.run import new_token
from hubd.web import format


@click.group(epilog="Example: hubd tenant add acme && hubd enroll barn-7 --tenant acme")
def tenant() -> None:
    """Keep organisations apart that share this hub.

    An edge belongs to one tenant. A tenant's token sees its edges and nothing of others'.
    """


@tenant.command(epilog="Example: hubd tenant add acme")
@click.argument("name", callback=checked_name)
@database_option
@click.pass_obj
def add(config: Path, name: str) -> None:
    """Make the tenant NAME; a running hub knows it within a second."""
    with contextlib.closing(registry_of(config)) as registry:
        registry.tenants.add(name)
    click.echo(f"next: hubd enroll EDGE --tenant {name}; hubd tenant token {name}")


@tenant.command("list", epilog="Example: hubd tenant list --json")
@as_json_option
@database_option
@click.pass_obj
def list_(config: Path, as_json: bool) -> None:
    """List the tenants, with how many edges and tokens each has."""
    with contextlib.closing(registry_of(config)) as registry:
        found = registry.tenants.all()
    if as_json:
        rows = [{"tenant": one.name, "edges": one.edges, "tokens": one.tokens} for one in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for one in found:
        click.echo(f"{one.name}: {one.edges} edges, {one.tokens} tokens")


@tenant.command(epilog="Example: hubd tenant remove acme")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Without asking.")
@database_option
@click.pass_obj
def remove(config: Path, name: str, yes: bool) -> None:
    """Remove the tenant NAME, which has no edges any more, and withdraw its tokens.

    What its edges sent stays in the log, and nobody sees it. The name is not given again.
    """
    with contextlib.closing(registry_of(config)) as registry:
        if not yes:
            click.confirm(f"remove {name}? Its name is not given again", abort=True, err=True)
        registry.tenants.remove(name)
    click.echo(f"{name} is removed, its tokens are withdrawn")


@tenant.command(epilog="Example: hubd tenant token acme --read --label 'their dashboard'")
@click.argument("name")
@click.option("--read", is_flag=True, help="One that may only read.")
@click.option("--label", default="", callback=checked_text, help="What it is for.")
@as_json_option
@database_option
@click.pass_obj
def token(config: Path, name: str, read: bool, label: str, as_json: bool) -> None:
    """Make a token of the API for the tenant NAME, and print it, once.

    It counts within a second, and until `hubd tenant withdraw`.
    """
    made, digest = new_token()
    with contextlib.closing(registry_of(config)) as registry:
        registry.api_tokens.add(digest, tenant=name, label=label, may_write=not read)
    if as_json:
        click.echo(json.dumps({"token": made, "sha256": digest, "may_write": not read}))
    else:
        click.echo(made)


@tenant.command(epilog="Example: hubd tenant tokens acme")
@click.argument("name")
@as_json_option
@database_option
@click.pass_obj
def tokens(config: Path, name: str, as_json: bool) -> None:
    """List the tokens of the tenant NAME by their hash: the hub does not know them."""
    with registry_for(config, name) as registry:
        found = [one for one in registry.api_tokens.all() if one.tenant == name]
    if as_json:
        rows = [
            {"sha256": one.sha256, "label": one.label, "may_write": one.may_write,
             "created_ns": one.created_ns}
            for one in found
        ]  # fmt: skip
        click.echo(json.dumps(rows, indent=2))
        return
    for one in found:
        kind = "reads and writes" if one.may_write else "reads"
        made = format.moment(one.created_ns)
        click.echo(f"{one.sha256[:12]} {kind}, made {made}{one.label and ': ' + one.label}")


@tenant.command(epilog="Example: hubd tenant withdraw acme 5f2c8a")
@click.argument("name")
@click.argument("sha256")
@database_option
@click.pass_obj
def withdraw(config: Path, name: str, sha256: str) -> None:
    """Withdraw the token of the tenant NAME whose hash begins with SHA256."""
    with contextlib.closing(registry_of(config)) as registry:
        gone = registry.api_tokens.withdraw(name, sha256)
    click.echo(f"{gone.sha256[:12]} is withdrawn; a running hub refuses it within a second")
