"""Bytes of every released format version stay readable, and mean what they meant."""

import array
import json
from pathlib import Path
from typing import Any

import pytest

from edgesync._native import batch, block, event
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.keyspace import HASH, LIST, WEIGHT_ROW
from edgesync._native.wal import replay
from tests.cells.memory import MemoryView
from tests.golden.moments import all_digests
from tests.golden.record_native import LAP, fill_keyspace, write_ahead_log
from tests.native import esb1

FOLDER = Path(__file__).parent


def golden(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("name", golden("block-1.json"))
def test_blocks_of_version_1(name: str) -> None:
    kept = golden("block-1.json")[name]
    data = bytes.fromhex(kept["bytes"])
    series, vtype, times, values = block.decode(data)
    assert (series, vtype, list(times)) == (kept["series"], kept["vtype"], kept["times"])
    if isinstance(values, array.array):
        bits = array.array("Q", values.tobytes())
        assert list(bits) == kept["values"] == esb1.decode(data).values
    else:
        assert values == kept["values"]


def test_moments_and_sketches_are_the_same_on_every_machine() -> None:
    assert all_digests() == golden("moments-1.json")


@pytest.mark.parametrize("name", golden("batch-1.json"))
def test_batches_of_version_1(name: str) -> None:
    kept = golden("batch-1.json")[name]
    payload = bytes.fromhex(kept["payload"])
    rows = batch.unpack(kept["codec"], payload, 2, 77, 4711)
    assert rows.hex() == kept["rows"]


@pytest.mark.parametrize("kept", golden("event-1.json"))
def test_events_of_version_1(kept: dict[str, Any]) -> None:
    fields = kept["fields"]
    fields[4] = bytes.fromhex(fields[4])
    assert event.decode(bytes.fromhex(kept["bytes"])) == tuple(fields)
    assert event.encode(*fields).hex() == kept["bytes"]


@pytest.mark.parametrize("version", [1, 2])
def test_keyspaces_of_each_version(version: int) -> None:
    """A string with siblings says since 2 by which strategy it was counted."""
    view = MemoryView()
    for row, raw in golden(f"keyspace-{version}.json").items():
        view.put(bytes.fromhex(row), bytes.fromhex(raw))
    space = EdgeKeys(view)
    space.now_ms = 1_700_000_000_000
    assert (space.r, space.keys) == (7, 7)
    assert space.get_string(b"string") == b"value"
    assert space.get_string(b"packed") == b"x" * 300
    assert space.get_string(b"counter") == b"42"
    assert dict(space.cells(b"hash", HASH)) == {b"a": b"1", b"b": b"2"}
    assert space.deadline(b"hash") == 1_800_000_000_000
    assert [value for _, value in space.cells(b"list", LIST)] == [b"w", b"x", b"y"]
    assert list(space.by_score(b"zset")) == [(-2.5, b"m")]
    assert space.type_of(b"gone") == 0
    assert [op.key for op in space.take()] == [b"gone"]
    # Version 1 had no row for what they weigh.
    again = MemoryView()
    fill_keyspace(EdgeKeys(again))
    rows = {row.hex(): raw.hex() for row, raw in again.rows().items()}
    weight = int(rows[WEIGHT_ROW.hex()], 16)
    assert rows == golden("keyspace-2.json")
    assert space.data == space.weigh() == weight
    space.put(b"more", b"s", b"12345")
    assert space.data == space.weigh() == weight + 9


def test_write_ahead_logs_of_version_1() -> None:
    kept = golden("wal-1.json")
    rows = replay(bytes.fromhex(kept["bytes"]), LAP)
    assert {key.hex(): value and value.hex() for key, value in rows.items()} == kept["rows"]
    assert rows == {
        b"s|key": b"later", b"d|1": None, b"d|2": bytes(range(200)), b"a": b"x",
    }  # fmt: skip
    assert write_ahead_log() == kept
