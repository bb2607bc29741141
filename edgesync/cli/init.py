"""`edgesync init`: settings, keys, and joining a hub."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import click

from edgesync import toml
from edgesync.settings import read_settings
from edgesync_transport.keys import Token, TokenError, decode_token, load_or_create_keys

TIMEOUT_S: Final = 15.0
ANSWER_BYTES_MAX: Final = 64 * 1024

TEMPLATE: Final = """\
# Settings of an edge; docs/configuration.md explains every key.

[edge]
name = "{name}"
data_dir = "data"

[hub]
endpoint = "{endpoint}"
server_key = "{server_key}"
keys = "edge.keys"

[sync]
heartbeat = "5s"

[http]
port = 9464            # metrics, health and status on loopback; 0 switches it off

# A device, read by one of the profiles that come along or by one of your own:
#
# [[modbus]]
# name = "meter0"
# host = "192.0.2.10"
# unit_id = 1
# profile = "edgesync-sim-meter"
# poll_groups.fast.every = "1s"
"""


JOINED: Final = """
[hub]                  # added by `edgesync init`
endpoint = "{endpoint}"
server_key = "{server_key}"
"""


@click.command(epilog="Example: edgesync init --token edgesync1.…   (or --token - to read it)")
@click.option("--token", default="", help="The line that `hubd enroll` printed; - reads it.")
@click.option("--name", default="edge", show_default=True, help="Of an edge without a hub.")
@click.pass_obj
def init(config: Path, token: str, name: str) -> None:
    """Write edge.toml and make the edge's keys; with a token, register them at its hub.

    A file that exists and does not say which hub is its own gets that added at its end, and
    otherwise stays as it is. The secret key never leaves this machine.
    """
    text = sys.stdin.read() if token == "-" else token
    if config.exists():
        if not text or "hub" in toml.read(config) or read_settings(config).hub.endpoint:
            raise click.ClickException(f"{config} exists; edit it, or name another with --config")
        _join(config, text)
        return
    config.parent.mkdir(parents=True, exist_ok=True)
    keys = load_or_create_keys(config.parent / "edge.keys")
    facts = {"name": name, "endpoint": "", "server_key": ""}
    if text:
        facts = _redeemed(text, keys.public)
    draft = config.with_suffix(".draft")
    draft.write_text(TEMPLATE.format(**_quoted(facts)))
    read_settings(draft)
    draft.rename(config)
    click.echo(f"wrote {config}; this edge is {facts['name']}")
    click.echo("next: add [[modbus]] devices to it, then edgesync run")


def _join(config: Path, text: str) -> None:
    """Add the hub of a token to a file of the operator's own making."""
    keys = load_or_create_keys(config.parent / read_settings(config).hub.keys)
    facts = _redeemed(text, keys.public)
    draft = config.with_suffix(".draft")
    draft.write_text(f"{config.read_text().rstrip()}\n{JOINED.format(**_quoted(facts))}")
    read_settings(draft)
    draft.replace(config)
    click.echo(f"added [hub] to {config}; the hub knows this edge as {facts['name']}")


def _redeemed(text: str, public: str) -> dict[str, str]:
    try:
        parsed = decode_token(text)
    except TokenError as error:
        raise click.ClickException(str(error)) from error
    _register(parsed, public)
    return {"name": parsed.edge, "endpoint": parsed.address, "server_key": parsed.server_key}


def _quoted(facts: dict[str, str]) -> dict[str, str]:
    return {key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in facts.items()}


def _register(token: Token, public: str) -> None:
    """Leave the public key at the hub; asking again with the same key is answered the same."""
    if not token.enrol_url:
        click.echo(f"register this key at the hub by hand: {public}", err=True)
        return
    body = {"routing_key": token.routing_key, "secret": token.secret, "public_key": public}
    request = urllib.request.Request(
        f"{token.enrol_url}/api/v1/enroll",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        refusal = _refusal(error.read(ANSWER_BYTES_MAX))
        raise click.ClickException(f"the hub refused: {refusal}") from error
    except OSError as error:
        raise click.ClickException(
            f"{token.enrol_url} cannot be reached: {error}; is the hub running there?"
        ) from error


def _refusal(body: bytes) -> str:
    try:
        found: dict[str, Any] = json.loads(body)
        return str(found["error"])
    except (ValueError, KeyError):
        return body[:200].decode("utf-8", "replace")
