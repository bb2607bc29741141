"""`hubd init` and `hubd run`."""

import functools
import logging
from pathlib import Path

import click
import trio

from edgesync.logs import set_up_logging
from hubd import serve
from hubd.settings import data_dir, read_settings

TEMPLATE = """\
# Settings of an edgesync hub; docs/hub-configuration.md explains every key.

[hub]
data_dir = "{data_dir}"
listen = ["{listen}"]       # edges connect here
public = "{public}"         # the same address as edges see it; it goes into tokens
public_url = "{public_url}" # the HTTP address as edges see it, for enrolment

[link]
heartbeat = "{heartbeat}"

[api]
host = "{host}"
port = {port}
"""


@click.command(
    epilog="Example: hubd init --listen tcp://0.0.0.0:7400 --public tcp://hub.example.org:7400"
)
@click.option(
    "--listen", default="tcp://0.0.0.0:7400", show_default=True, help="The link's address."
)
@click.option("--public", default="", help="The link's address as edges see it.")
@click.option("--public-url", default="", help="The HTTP address as edges see it.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where HTTP listens.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--heartbeat", default="5s", show_default=True, help="Between signs of life.")
@click.option("--data-dir", default="data", show_default=True)
@click.pass_obj
def init(config: Path, /, **values: object) -> None:
    """Write hub.toml and make the hub's keys; nothing that exists is overwritten."""
    if config.exists():
        raise click.ClickException(f"{config} exists; edit it, or name another with --config")
    config.parent.mkdir(parents=True, exist_ok=True)
    draft = config.with_suffix(".draft")
    draft.write_text(TEMPLATE.format(**values))
    settings = read_settings(draft)
    draft.rename(config)
    keys = serve.load_keys(data_dir(config, settings))
    click.echo(f"wrote {config}; the hub's public key is {keys.public}")
    click.echo("next: hubd enroll NAME prints a token for an edge, hubd run starts the hub")


@click.command(epilog="Example: hubd --config /etc/edgesync/hub.toml run")
@click.option("--log-text", is_flag=True, help="Plain log lines instead of JSON.")
@click.pass_obj
def run(config: Path, log_text: bool) -> None:
    """Serve edges, the API and the dashboard until SIGTERM or SIGINT."""
    settings = read_settings(config)
    level = logging.getLevelName(settings.logging.level.upper())
    set_up_logging(level, as_json=settings.logging.json and not log_text)
    folder = data_dir(config, settings)
    trio.run(functools.partial(serve.run_until_signalled, settings, folder))


def register(group: click.Group) -> None:
    group.add_command(init)
    group.add_command(run)
