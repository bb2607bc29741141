"""The documents say what there is: every setting and its default, every command."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgesync.settings
import hubd.settings
from edgesync.cells.commands import TABLE
from edgesync.serve.resp.session import OWN
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.units import Bytes, Seconds, parse_duration, parse_size
from tests.documents import blocks

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| (`[^|]+`) \| ([^|]+) \|", re.M)


def documented(file: str) -> dict[str, dict[str, str]]:
    """Return section -> key -> default, from the tables under `## [section]`."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", (DOCS / file).read_text(), flags=re.M)[1:]:
        section = part.partition("\n")[0].strip("[]")
        rows = ROW.findall(part)
        found[section] = {key: default for keys, default in rows for key in names(keys)}
    return found


def names(keys: str) -> list[str]:
    return re.findall(r"`(\w+)`", keys)


def is_same(written: str, default: Any) -> bool:
    text = written.strip("` ")
    if isinstance(default, Bytes):
        return parse_size(json.loads(text)) == default
    if isinstance(default, Seconds):
        return parse_duration(json.loads(text)) == default
    value = json.loads(text)
    return bool((tuple(value) if isinstance(value, list) else value) == default)


SAID = re.compile(r"print\(.*\)  # (.*)$", re.M)


@pytest.mark.parametrize("file", ["sensors.md"])
def test_examples_print_what_they_say(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = blocks(f"docs/{file}", "python")
    assert examples
    for number, example in enumerate(examples):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        exec(compile(example, f"{file}, example {number + 1}", "exec"), {})
        said = SAID.findall(example)
        assert capsys.readouterr().out.splitlines() == said


def test_every_redis_command_is_documented_and_no_other() -> None:
    text = (DOCS / "redis-commands.md").read_text()
    table = text.partition("## Commands")[2].partition("## What differs")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")]
    options = re.compile(r"\(.*?\)|with .*")
    named = {one for row in rows for one in re.findall(r"`([A-Z_]+)`", options.sub("", row))}
    there = {name.decode().upper() for name in (*TABLE, *OWN) if b"." not in name}
    assert named == there


def test_every_pitfall_names_tests_that_exist() -> None:
    """A row of docs/pitfalls.md without its test is a claim; one whose test is gone, too."""
    tests = (DOCS.parent / "tests").rglob("test_*.py")
    there = {name for path in tests for name in re.findall(r"def (test_\w+)", path.read_text())}
    text = (DOCS / "pitfalls.md").read_text().partition("\n## What you should")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [cells for cells in rows if cells[0].strip() != "pitfall"]
    assert len(rows) > 25
    for cells in rows:
        assert len(cells) == 4, cells[0]
        named = set(re.findall(r"`(test_\w+)`", cells[3]))
        assert named, f"no test: {cells[0]}"
        assert named <= there, f"{cells[0]}: no such test: {named - there}"


def check_section(name: str, values: msgspec.Struct, tables: dict[str, dict[str, str]]) -> None:
    said = tables.pop(name)
    for field in msgspec.structs.fields(values):
        value = getattr(values, field.name)
        if isinstance(value, msgspec.Struct):
            check_section(f"{name}.{field.encode_name}", value, tables)
        else:
            assert is_same(said.pop(field.encode_name), value), f"{name}.{field.name}"
    assert not said, f"[{name}] has no such keys"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("configuration.md", edgesync.settings.Settings),
        ("hub-configuration.md", hubd.settings.Settings),
    ],
)
def test_every_key_is_documented_with_its_default(file: str, kind: type[msgspec.Struct]) -> None:
    tables = documented(file)
    defaults = kind()
    for section in (field for field in msgspec.structs.fields(kind) if field.name != "modbus"):
        check_section(section.encode_name, getattr(defaults, section.name), tables)
    keys = {field.encode_name for field in msgspec.structs.fields(ModbusDeviceSettings)}
    assert all(set(said) == keys for said in tables.values() if said)
