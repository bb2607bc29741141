"""Write the golden files of a new format version: `python -m tests.golden.record_native`.

A file that exists is never written again: data of a released version must be readable for ever.
"""

import array
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgesync._native import batch, block, event
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.wal import Wal, replay
from edgesync.store.directory import WAL, make_wal
from tests.cells.memory import MemoryView
from tests.golden.moments import all_digests
from tests.native import esb1
from tests.native.rowsmith import Draft, make_rows
from tests.native.test_block import CASES, events, fixed, jittered
from tests.native.test_wal import add

FOLDER = Path(__file__).parent
LAP = b"the lap."
EVENTS: list[tuple[Any, ...]] = [
    (0, 0, 0, "", b"", 0, 0, 0),
    (2, 1, 2, "meter0", b'{"key":"ActivePower"}', 1_700_000_000_000_000_000, 5, 2**63),
    (65535, 65535, 65535, "zähler/§", bytes(range(256)), -(2**63), 2**63 - 1, 2**64 - 1),
]


def one_block(packed: bytes) -> dict[str, Any]:
    points = esb1.decode(packed)
    values = [v.decode() if isinstance(v, bytes) else v for v in points.values]
    return {
        "bytes": packed.hex(),
        "series": points.series,
        "vtype": points.vtype,
        "times": points.times,
        "values": values,
    }


def blocks() -> dict[str, Any]:
    """A block of every codec; the values of numbers are their 64 bits."""
    out = {}
    for name, _, vtype, values in CASES:
        n = min(len(values), 150)
        for kind, times in (("fixed", fixed(n)), ("jitter", jittered(n)), ("sparse", events(n))):
            if kind == "fixed" or name == "decimals":
                packed = block.encode(7, vtype, times, values[:n])
                out[f"{name}, {kind} times"] = one_block(packed)
    wide = array.array("q", [-(2**63), 2**63 - 1, 0])
    out["raw times"] = one_block(block.encode(7, 1, wide, wide))
    out["few texts"] = one_block(block.encode(7, 3, fixed(40), ["on", "off"] * 20))
    out["texts"] = one_block(block.encode(7, 3, fixed(40), [f"tëxt {i}" for i in range(40)]))
    return out


def batches() -> dict[str, Any]:
    made = [Draft(1, event.encode(*EVENTS[1]), number=1)]
    for i in range(40):
        time_ns = 1_700_000_000_000_000_000 + i * 10**9 + i % 7 * 10**6
        body = batch.readings(time_ns, 0, [1, 2, 3], [i / 10, 230.1, -0.0])
        made.append(Draft(2, body, number=i + 2))
        if i % 5 == 0:
            made.append(
                Draft(2, batch.readings(time_ns, 3, [9], [f"state {i % 3}"]), number=900 + i)
            )
            made.append(Draft(2, batch.readings(time_ns, 2, [4, 5], [True, i % 2]), number=901 + i))
            made.append(Draft(2, batch.readings(time_ns, 1, [6], [i * 10**12]), number=902 + i))
    made.append(Draft(1, b"loss", number=5000, chain=12345))
    rows = make_rows(made, lane=2, first=77, prev_chain=4711)
    out = {}
    for name, columns in (("rows", False), ("columns", True)):
        codec, payload = batch.pack(rows, columns=columns, prev_chain=4711)
        out[name] = {"codec": codec, "payload": payload.hex(), "rows": rows.hex()}
    return out


def keyspace() -> dict[str, str]:
    """The rows of an edge's keys of every type, some of them sent."""
    view = MemoryView()
    fill_keyspace(EdgeKeys(view))
    return {row.hex(): raw.hex() for row, raw in sorted(view.rows().items())}


def fill_keyspace(space: EdgeKeys) -> None:
    space.rejoin(7)
    space.now_ms = 1_700_000_000_000
    space.put(b"string", b"s", b"value")
    space.put(b"packed", b"s", b"x" * 300)
    space.add(b"counter", b"s", b"41")
    space.take()
    space.add(b"counter", b"s", b"1")
    space.put_many(b"hash", [(b"ha", b"1"), (b"hb", b"2")])
    space.push(b"list", 1, [b"x", b"y"])
    space.push(b"list", 0, [b"w"])
    space.put(b"set", b"em", b"")
    space.put(b"zset", b"zm", b"-2.5")
    space.expire(b"hash", 1_800_000_000_000)
    space.put(b"gone", b"s", b"v")
    space.take()
    space.delete(b"gone")
    space.save_counters()


def write_ahead_log() -> dict[str, Any]:
    """A log of one lap over another, up to where its entries end."""
    with TemporaryDirectory() as name:
        make_wal(Path(name), 400)
        wal = Wal(str(Path(name) / WAL))
        entries: list[dict[bytes, bytes | None]] = [
            {b"s|key": b"value", b"d|1": b""},
            {b"s|key": b"later", b"d|1": None, b"d|2": bytes(range(200))},
            {b"a": b"x"},
        ]
        older: list[dict[bytes, bytes | None]] = [{b"old": bytes(300)}]
        for lap in (b"before..", LAP):
            wal.begin(lap)
            for rows in entries if lap == LAP else older:
                add(wal, rows)
        wal.close()
        raw = (Path(name) / WAL).read_bytes()
    found = {key.hex(): value and value.hex() for key, value in replay(raw, LAP).items()}
    return {"bytes": raw.hex(), "rows": found}


def events_written() -> list[dict[str, Any]]:
    return [
        {
            "bytes": event.encode(*e).hex(),
            "fields": [f.hex() if isinstance(f, bytes) else f for f in e],
        }
        for e in EVENTS
    ]


def record(name: str, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    path = FOLDER / name
    if path.exists():
        print(f"{name} is there and stays")
        return
    if isinstance(content, dict):  # an entry a line
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        path.write_text("[\n" + ",\n".join(json.dumps(one) for one in content) + "\n]\n")


if __name__ == "__main__":
    record("event-1.json", events_written())
    record("block-1.json", blocks())
    record("batch-1.json", batches())
    record("keyspace-2.json", keyspace())
    record("wal-1.json", write_ahead_log())
    record("moments-1.json", all_digests())
