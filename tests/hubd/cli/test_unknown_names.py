"""Every command that is told a tenant or an edge says so when there is none of that name."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import hubd.cli
from tests.edgesync.rules.chains import exported
from tests.terminal import Terminal, open_terminal

pytestmark = [pytest.mark.feature("L14"), pytest.mark.slow]

UNKNOWN = "nobody-here"
# What else a command must be told.
TOLD = {
    "action": "relations_deleted", "bundle": "cold", "command": "DBSIZE", "customer": "Mill",
    "device": "Scale", "entity": "Scale", "file": "model", "method": "go", "older_than_s": "1",
    "places": "cold.json", "sha256": "ab", "target": "127.0.0.1:80",
}  # fmt: skip
MORE = {"grant": ["--all"], "resend": ["--from", "-6h", "--to", "now"]}
# These make what is not there.
MAKES = {"enroll", "edge save", "tenant add"}


def commands(
    group: click.Group, context: click.Context, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, click.Context(command, parent=context), (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(hubd.cli.main, click.Context(hubd.cli.main)))


def names_edge(one: click.Parameter) -> bool:
    return one.name in ("edge", "edges") or (one.name == "name" and one.metavar == "EDGE")


def names_tenant(path: str, one: click.Parameter) -> bool:
    return one.name == "tenant" or (path.startswith("tenant ") and one.name == "name")


def line(path: str, command: click.Command, unknown: click.Parameter, folder: Path) -> list[str]:
    """Return how to call a command so that only the name in `unknown` is wrong."""
    said = path.split()
    for one in command.params:
        value = (
            UNKNOWN if one is unknown else "barn" if names_edge(one) else TOLD.get(str(one.name))
        )
        if one.name in ("file", "places"):
            value = str(folder / str(value))
        if one is unknown or one.required or one.name == "edges":
            value = value or "model"
            said += [value] if isinstance(one, click.Argument) else [one.opts[0], value]
        elif one.name == "yes":
            said.append("--yes")
    return [*said, *MORE.get(path, [])]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "model").write_bytes(b"weights")
    save = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
    (folder / "cold.json").write_bytes(exported([save], name="cold"))
    with open_terminal(folder) as made:
        made.start_hub()
        made.out("hubd", "enroll", "barn")
        made.out("hubd", "object", "put", str(folder / "model"))
        made.out("hubd", "rules", "upload", str(folder / "cold.json"))
        yield made


@pytest.mark.parametrize("path", [
    path for path, command in COMMANDS.items() if path not in MAKES
    and any(names_edge(one) for one in command.params)
])  # fmt: skip
def test_no_such_edge(terminal: Terminal, path: str) -> None:
    (unknown,) = (one for one in COMMANDS[path].params if names_edge(one))
    told = terminal.run("hubd", *line(path, COMMANDS[path], unknown, terminal.folder))
    assert told.returncode not in (0, 2), (told.stdout, told.stderr)
    assert UNKNOWN in told.stderr, told.stderr


@pytest.mark.parametrize("path", [
    path for path, command in COMMANDS.items() if path != "tenant add"
    and any(names_tenant(path, one) for one in command.params)
])  # fmt: skip
def test_no_such_tenant(terminal: Terminal, path: str) -> None:
    (unknown,) = (one for one in COMMANDS[path].params if names_tenant(path, one))
    told = terminal.run("hubd", *line(path, COMMANDS[path], unknown, terminal.folder))
    assert told.returncode not in (0, 2), (told.stdout, told.stderr)
    assert UNKNOWN in told.stderr, told.stderr


def writes(path: str) -> list[click.Parameter]:
    """Return what names a file or folder that a command makes."""
    return [
        one for one in COMMANDS[path].params
        if isinstance(one.type, click.Path) and not one.type.exists
    ]  # fmt: skip


@pytest.mark.parametrize("path", [path for path in COMMANDS if writes(path)])
@pytest.mark.parametrize("place", ["missing", "model"])  # no folder, a file in its place
def test_a_file_that_cannot_be_made_is_named(terminal: Terminal, path: str, place: str) -> None:
    (target,) = writes(path)
    named = terminal.folder / f"{place} of {path}" / "in it"
    if place == "model":
        named.parent.write_bytes(b"a file")
    said = line(path, COMMANDS[path], target, terminal.folder)
    said = [str(named) if one == UNKNOWN else one for one in said]
    told = terminal.run("hubd", *said)
    if told.returncode:
        assert str(named.parent) in told.stderr
        assert "Errno" not in told.stderr
    else:
        assert named.exists()
