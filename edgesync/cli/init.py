"""`edgesync init`: settings, keys, and joining a hub."""

import functools
import json
import re
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import click
import trio

from edgesync import toml
from edgesync.errors import ConfigError
from edgesync.settings import link_proxy, read_settings
from edgesync.store.directory import replace_by
from edgesync_transport.dealer import Cause, LinkLost, ask_as_guest
from edgesync_transport.keys import (
    Token,
    TokenError,
    decode_token,
    load_or_create_keys,
    read_keys,
)
from edgesync_transport.proxy import Proxy

TIMEOUT_S: Final = 15.0
LINK_TIMEOUT_S: Final = 6.0
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


NAMED: Final = """
[edge]                 # added by `edgesync init`
name = "{name}"
"""


class Refused(click.ClickException):
    """The hub said no; `code` is one of hubd.errors.EnrolRefused."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"the hub refused: {reason}")
        self.code = code


@click.command(epilog="Example: edgesync init --token edgesync1.…   (or --token - to read it)")
@click.option("--token", help="The line that `hubd enroll` printed; - reads it.")
@click.option("--name", default="edge", show_default=True, help="Of an edge without a hub.")
@click.option("--new-key", is_flag=True, help="Replace the edge's key pair by a new one.")
@click.option("--proxy", metavar="URL", help="What the link goes through; it is written to [hub].")
@click.pass_obj
def init(config: Path, token: str | None, name: str, new_key: bool, proxy: str | None) -> None:
    """Write edge.toml and make the edge's keys; with a token, register them at its hub.

    In a file that exists, only endpoint and server_key of [hub] are added or replaced, and a name
    is added where it has none. The secret key never leaves this machine.
    """
    parsed = None if token is None else _parsed(sys.stdin.read() if token == "-" else token)
    if parsed is None:
        if new_key:
            raise click.UsageError("--new-key needs --token: the hub has to learn the new key")
        if config.exists():
            raise click.ClickException(
                f"{config} exists; edit it, join a hub with --token, or name another with --config"
            )
    config.parent.mkdir(parents=True, exist_ok=True)
    is_new = not config.exists()
    draft = config.with_name(f"{config.name}.draft")
    facts = _facts(parsed, name)
    text = TEMPLATE.format(**facts) if is_new else _joined(config, facts)
    try:
        # First this: a token that was redeemed for a file nobody can read would be lost.
        draft.touch()
        if not is_new:
            shutil.copymode(config, draft)
        draft.write_text(text)
        if proxy is not None:
            draft.write_text(_edited(config, text, "hub", {"proxy": _quoted(proxy)}))
        settings = read_settings(draft)
        keys = config.parent / settings.hub.keys
        if parsed is None:
            load_or_create_keys(keys)
        else:
            _register_keys(keys, parsed, link_proxy(settings), is_new_wanted=new_key)
        replace_by(config, draft)
    finally:
        draft.unlink(missing_ok=True)
    here = "" if config == Path("edge.toml") else f"--config {config} "
    if is_new:
        click.echo(f"wrote {config}; this edge is {facts['name']}")
        click.echo(f"next: add devices to it, [[modbus]] or [mqtt], then edgesync {here}run")
    else:
        click.echo(f"[hub] of {config} is set; the hub knows this edge as {facts['name']}")
        click.echo(f"next: edgesync {here}run; an edge that runs already has to be started again")


def _parsed(text: str) -> Token:
    if not text.strip():
        raise click.ClickException("the token is empty: did `hubd enroll` fail?")
    try:
        return decode_token(text)
    except TokenError as error:
        raise click.ClickException(str(error)) from error


def _facts(token: Token | None, name: str) -> dict[str, str]:
    facts = {"name": name, "endpoint": "", "server_key": ""}
    if token is not None:
        facts = {"name": token.edge, "endpoint": token.address, "server_key": token.server_key}
    return {key: _quoted(value) for key, value in facts.items()}


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _joined(config: Path, facts: dict[str, str]) -> str:
    """Return the text of a file of the operator's own making with the hub in it, and a name.

    Raises ClickException, saying what to write, where only the operator can do it.
    """
    text, table = config.read_text(), toml.read(config)
    if "hub" in table:
        text = _edited(config, text, "hub", {key: facts[key] for key in ("endpoint", "server_key")})
    else:
        text = f"{text.rstrip()}\n{JOINED.format(**facts)}"
    edge = table.get("edge", {})
    if isinstance(edge, dict) and "name" in edge:
        return text
    if "edge" in table:
        return _edited(config, text, "edge", {"name": facts["name"]})
    return f"{text.rstrip()}\n{NAMED.format(**facts)}"


def _edited(config: Path, text: str, section: str, wanted: dict[str, str]) -> str:
    """Return the text with these keys of a section, which it has; raises ClickException."""
    edited = _with_values(text, section, wanted)
    meant = toml.parse(text.encode(), file=str(config))
    held = meant[section]
    meant[section] = {**held, **wanted} if isinstance(held, dict) else wanted
    try:
        is_meant = toml.parse(edited.encode(), file=str(config)) == meant
    except ConfigError:
        is_meant = False
    if not is_meant:
        lines = "".join(f'\n    {key} = "{value}"' for key, value in wanted.items())
        raise click.ClickException(
            f"{config} has its [{section}] in a form that is left alone; "
            f"write what follows there and call this again:{lines}"
        )
    return edited


def _with_values(text: str, section: str, values: dict[str, str]) -> str:
    """Set keys of a TOML section that stands on lines of its own, and leave the rest as it is.

    Whoever calls checks the outcome: a line that only looks like one is possible in a long string.
    """
    lines, missing, here = list[str](), dict(values), False
    for line in text.rstrip("\n").split("\n"):
        if re.match(r"\s*\[", line):
            here = re.match(rf"\s*\[\s*{section}\s*\]", line) is not None
            lines.append(line)
            if here:
                lines.extend(values)  # to be filled in below
            continue
        key = re.match(r"""\s*(\w+)\s*=\s*(?:"[^"]*"|'[^']*')(\s*(?:#.*)?)$""", line)
        if here and key is not None and key[1] in missing:
            line = f'{key[1]} = "{missing.pop(key[1])}"{key[2]}'
        lines.append(line)
    filled = [f'{one} = "{missing[one]}"' if one in missing else one for one in lines]
    return "".join(f"{line}\n" for line in filled if line not in values)


def _register_keys(path: Path, token: Token, proxy: Proxy | None, *, is_new_wanted: bool) -> None:
    """Leave a public key at the hub: that of `path`, or a new one, which then is in `path`.

    A new pair waits beside the old one until the hub has it. If its answer is lost, the next call
    shows the same pair, to which the hub says yes again.
    """
    if path.exists() and not is_new_wanted:
        try:
            _register(token, read_keys(path).public, proxy)
        except Refused as refused:
            if refused.code != "revoked":
                raise
            click.echo(f"the key pair in {path} was revoked")
        else:
            click.echo(f"the key pair in {path} is used again; --new-key would make another")
            return
    waiting = path.with_name(f"{path.name}.new")
    try:
        _register(token, load_or_create_keys(waiting).public, proxy)
    except Refused as refused:
        if refused.code == "revoked":
            waiting.unlink()
        raise
    replace_by(path, waiting)
    click.echo(f"made a new key pair: {path}")


def _register(token: Token, public: str, proxy: Proxy | None) -> None:
    """Leave the public key at the hub; asking again with the same key is answered the same."""
    if not token.enrol_url:
        _register_over_link(token, public, proxy)
        return
    if proxy is not None and proxy.scheme != "http":
        raise click.ClickException(
            f"the token names {token.enrol_url}, and {proxy} is no proxy for HTTP; "
            "ask for a token of a hub without hub.public_url, which goes over the link"
        )
    # Through the link's proxy, and through none that only the environment names.
    url = proxy.url() if proxy else ""
    through = urllib.request.ProxyHandler({"http": url, "https": url} if url else {})
    opener = urllib.request.build_opener(through)
    body = {"routing_key": token.routing_key, "secret": token.secret, "public_key": public}
    request = urllib.request.Request(
        f"{token.enrol_url}/api/v1/enroll",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        raise _refusal(error.read(ANSWER_BYTES_MAX)) from error
    except OSError as error:
        raise click.ClickException(
            f"{token.enrol_url} cannot be reached: {error}; is the hub running there?"
        ) from error


def _register_over_link(token: Token, public: str, proxy: Proxy | None) -> None:
    ask = functools.partial(
        ask_as_guest,
        token.address,
        server_key=token.server_key,
        secret=token.secret,
        question=json.dumps({"public_key": public}).encode(),
        timeout_s=LINK_TIMEOUT_S,
        proxy=proxy,
    )
    try:
        answer = trio.run(ask)
    except LinkLost as lost:
        if lost.cause is Cause.REFUSED:
            raise click.ClickException(
                "the hub does not know this token: it was withdrawn, or expired long ago; "
                "ask for a new one"
            ) from lost
        if lost.cause in (Cause.PROXY_AWAY, Cause.PROXY_REFUSED):
            raise click.ClickException(f"{lost}; mend hub.proxy, or ask who runs it") from lost
        raise click.ClickException(f"{lost}; is the hub running there?") from lost
    except trio.TooSlowError as error:
        raise click.ClickException(f"{token.address}: no answer; try again") from error
    if "error" in json.loads(answer):
        raise _refusal(answer)


def _refusal(body: bytes) -> Refused:
    try:
        found: dict[str, Any] = json.loads(body)
        return Refused(str(found["code"]), str(found["error"]))
    except (ValueError, KeyError, TypeError):
        return Refused("", body[:200].decode("utf-8", "replace"))
