"""Bytes of every released format version stay readable, and mean what they meant."""

import array
import json
from pathlib import Path
from typing import Any

import pytest

from edgesync._native import batch, block, event
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
