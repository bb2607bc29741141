"""`hubd init`, `hubd check`, `hubd token` and `hubd run`."""

import functools
import hashlib
import json
import logging
import re
import secrets
import shutil
import socket
from pathlib import Path

import click
import trio

from edgesync import toml
from edgesync.cli.program import as_json_option
from edgesync.cli.unit import Service, make_group
from edgesync.logs import set_up_logging
from edgesync.store.directory import replace_by
from hubd import data_folder
from hubd.api.settings import is_loopback
from hubd.cli.options import database_option, settings_of
from hubd.registry.enrol import public_address
from hubd.settings import Settings, data_dir, read_settings

TEMPLATE = """\
# Settings of an edgesync hub; docs/hub-configuration.md explains every key.

[hub]
data_dir = "{data_dir}"
listen = ["{listen}"]       # edges connect here
public = "{public}"         # the same address as edges see it; it goes into tokens
public_url = "{public_url}" # set: edges enrol there, over HTTP, and not over the link

[link]
heartbeat = "{heartbeat}"

[api]
host = "{host}"
port = {port}
"""
# What libraries tell about themselves, and no operator asks.
QUIET = ("alembic.runtime.plugins", "hubd.db.engine._Pool")
TOKENS = 'write_token_sha256 = ["{digest}"]  # of the token that `hubd init` printed\n'


@click.command(
    epilog="Example: hubd init --listen tcp://0.0.0.0:7400 --public tcp://hub.example.org:7400"
)
@click.option(
    "--listen", default="tcp://0.0.0.0:7400", show_default=True, help="The link's address."
)
@click.option(
    "--public", default="", help="The link's address as edges see it; guessed if left out."
)
@click.option("--public-url", default="", help="Let edges enrol there, over HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where HTTP listens.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(1, 65535),
    help="Of the dashboard and the API.",
)  # fmt: skip
@click.option("--heartbeat", default="5s", show_default=True, help="Between signs of life.")
@click.option("--data-dir", default="data", show_default=True, help="Beside hub.toml.")
@click.pass_obj
def init(config: Path, /, **values: str) -> None:
    """Write hub.toml and make the hub's keys; nothing that exists is overwritten.

    An address that is reachable from elsewhere (--host 0.0.0.0) needs a token: it is made and
    printed, once; hub.toml holds its hash.
    """
    if config.exists():
        raise click.ClickException(f"{config} exists; edit it, or name another with --config")
    config.parent.mkdir(parents=True, exist_ok=True)
    guessed = not values["public"]
    values["public"] = values["public"] or guess_public(values["listen"])
    text = TEMPLATE.format(**values)
    token = ""
    if not is_loopback(values["host"]):
        token, digest = new_token()
        text += TOKENS.format(digest=digest)
    settings = _checked(config, text)
    keys = data_folder.load_keys(data_dir(config, settings))
    click.echo(f"wrote {config}; the hub's public key is {keys.public}")
    how = "guessed from this machine; if gateways use another name, set hub.public" * guessed
    click.echo(f"gateways connect to {settings.hub.public}" + (f" ({how})" if how else ""))
    if token:
        click.echo(f"the API and the dashboard want this token, shown only now: {token}")
    here = "" if config == Path("hub.toml") else f"--config {config} "
    click.echo(
        f"next: hubd {here}run starts the hub; hubd {here}enroll NAME makes a gateway's token"
    )


def _checked(config: Path, text: str) -> Settings:
    """Put `text` into the file `config`, whole, if it is good; returns the settings."""
    draft = config.with_name(f"{config.name}.draft")
    try:
        draft.touch()
        if config.exists():
            shutil.copymode(config, draft)
        draft.write_text(text)
        settings = read_settings(draft)
        replace_by(config, draft)
    finally:
        draft.unlink(missing_ok=True)
    return settings


def guess_public(listen: str) -> str:
    """Return the link's address as other machines see it, as far as this one can know."""
    host, _, port = listen.removeprefix("tcp://").rpartition(":")
    if port == "*":
        return ""
    if host.strip("[]") not in ("0.0.0.0", "::", "*"):
        return listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only asks which of this machine's addresses would be used.
            probe.connect(("192.0.2.1", 9))
            found = str(probe.getsockname()[0])
        except OSError:
            found = "127.0.0.1"
    return f"tcp://{found}:{port}"


def new_token() -> tuple[str, str]:
    """Return a token of the API and its SHA-256, which is all the hub keeps."""
    token = f"esapi.{secrets.token_urlsafe(24)}"
    return token, hashlib.sha256(token.encode()).hexdigest()


@click.command(epilog="Example: hubd token --read")
@click.option("--read", is_flag=True, help="One that may only read.")
@as_json_option
@click.pass_obj
def token(config: Path, read: bool, as_json: bool) -> None:
    """Make a token of the API, put its hash into hub.toml and print it, once.

    Programs send it as `Authorization: Bearer TOKEN`, a browser asks for it as a password. The hub
    takes it with its next start; a token is withdrawn by removing its hash.
    """
    made, digest = new_token()
    key = "token_sha256" if read else "write_token_sha256"
    _checked(config, with_token(config.read_text(), key, digest))
    if as_json:
        click.echo(json.dumps({"token": made, "sha256": digest, "may_write": not read}))
        return
    click.echo(made)
    click.echo(f"its hash is in {config}; it counts once the hub is started again", err=True)


def with_token(text: str, key: str, digest: str) -> str:
    """Return the text of a hub.toml with one more hash in the list `key` of [api]."""
    head, section, rest = text.partition("[api]")
    if not section:
        return f'{text.rstrip()}\n\n[api]\n{key} = ["{digest}"]\n'
    body, mark, others = rest.partition("\n[")
    pattern = re.compile(rf"(?m)^(\s*{key}\s*=\s*\[)")
    if pattern.search(body):
        body = pattern.sub(rf'\g<1>"{digest}", ', body, count=1)
    else:
        body = f'\n{key} = ["{digest}"]{body}'
    return head + section + body + mark + others


@click.command(epilog="Example: hubd check && systemctl restart hubd")
@as_json_option
@database_option
@click.pass_obj
def check(config: Path, as_json: bool) -> None:
    """Check hub.toml and say what it would do; exit code 78 if it is wrong."""
    settings = settings_of(config)
    url = data_folder.database_url(settings)
    doubts = toml.unread(toml.environment(), "HUBD", Settings)
    public = ""
    try:
        public = public_address(settings)
    except ValueError as error:
        doubts.append(f"{error}; until then `hubd enroll` makes no tokens")
    facts = {
        "listen": list(settings.hub.listen),
        "public": public or None,
        "http": f"http://{settings.api.host}:{settings.api.port}",
        "wants_token": settings.api.has_tokens,
        "data_dir": str(data_dir(config, settings)),
        "database": url.render_as_string() if url else None,
        "doubts": doubts,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    tokens = "asks for a token" if settings.api.has_tokens else "asks for no token of hub.toml"
    click.echo(f"{config} is good")
    click.echo(f"  edges        {', '.join(settings.hub.listen)}, as {public or 'not known'}")
    click.echo(f"  dashboard    {facts['http']}, {tokens}")
    click.echo(f"  data         {facts['data_dir']}")
    click.echo(f"  database     {facts['database'] or 'files in the data folder'}")
    for doubt in doubts:
        click.echo(f"  doubtful     {doubt}")


@click.command(epilog="Example: hubd --config /etc/edgesync/hub.toml run")
@click.option("--log-text", is_flag=True, help="Plain log lines instead of JSON.")
@database_option
@click.pass_obj
def run(config: Path, log_text: bool) -> None:
    """Serve edges, the API and the dashboard until SIGTERM or SIGINT."""
    from hubd import serve

    settings = settings_of(config)
    level = logging.getLevelName(settings.logging.level.upper())
    set_up_logging(level, as_json=settings.logging.json and not log_text)
    if level > logging.DEBUG:
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
    folder = data_dir(config, settings)
    trio.run(functools.partial(serve.run_until_signalled, settings, folder))


def _service(config: Path) -> Service:
    folder = data_dir(config, read_settings(config))
    return Service(program="hubd", what="hubd, the hub of edges", config=config, data=folder)


service = make_group(_service, "hubd")
