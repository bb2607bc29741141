"""What a keyspace keeps, and what Redis clients send."""

import contextlib
import json
import random
import struct

from edgesync._native import cells
from edgesync._native.cells import Dot, Op
from edgesync._native.clock import VersionVector
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import HASH, ZSET
from edgesync._native.resp import Parser
from edgesync._native.wal import replay
from edgesync.errors import Evicted, RecordError
from tests.cells.memory import MemoryView
from tests.fuzz.fuzz import Target
from tests.golden.record_native import FOLDER, LAP
from tests.native.rowsmith import crc32c

VALUE, AMOUNT, TOMB = 0, 1, 2


def cells_written() -> list[bytes]:
    lone = [Dot(1, 2, 3, VALUE, b"value")]
    several = [
        Dot(0, 9, 1 << 60, TOMB, seq=7),
        Dot(1, 2, 3, AMOUNT, b"-17", seq=1 << 40),
        Dot(1, 5, 4, AMOUNT, b"2.5", pending=True),
        Dot(4_000_000_000, (1 << 64) - 1, 5, VALUE, b"x" * 100),
    ]
    return [cells.encode(one) for one in ([], lone, several, several[1:2])]


def run_cell(data: bytes) -> None:
    dots = cells.decode(data)
    assert cells.encode(dots) == data or len(cells.encode(dots)) <= len(data)
    for strategy in range(4):
        with contextlib.suppress(Evicted):
            cells.read(dots, strategy)


def filled() -> EdgeKeys:
    space = EdgeKeys(MemoryView())
    space.now_ms = 1_700_000_000_000
    for number in range(6):
        space.put(b"key", b"hf%d" % number, b"%d" % number)
        space.put(b"key", b"zm%d" % number, b"%d" % number)
    space.put(b"key", b"s", b"a string")
    space.expire(b"key", space.now_ms + 5000)
    space.take()
    space.add(b"key", b"s", b"5")
    return space


def records() -> list[bytes]:
    space = filled()
    raw = [space.view.get(b"kkey") or b""]
    space.delete(b"key")
    raw.append(space.view.get(b"kkey") or b"")
    space.put(b"key", b"s", b"again")
    return [*raw, space.view.get(b"kkey") or b""]


def run_record(data: bytes) -> None:
    """A key's record, damaged: an error, or a key that can be read and written."""
    space = filled()
    space.view.put(b"kkey", data)
    space.type_of(b"key")
    space.get(b"key", b"s")
    list(space.cells(b"key", HASH))
    list(space.by_score(b"key"))
    space.count(b"key", ZSET)
    space.deadline(b"key")
    space.put(b"key", b"s", b"new")


def operations() -> list[bytes]:
    ops = [
        Op(1, 1 << 60, 0, VALUE, b"key", b"s", b"value"),
        Op(2, 2 << 60, 7, AMOUNT, b"key", b"hf", b"-2.5"),
        Op(9, 3 << 60, 1 << 40, TOMB, b"other", b""),
    ]
    return [cells.encode_ops(4_000_000_000, ops), cells.encode_ops(1, ops[:1])]


def run_operations(data: bytes) -> None:
    """Operations from an edge: refused whole, or all of them can be carried out."""
    with contextlib.suppress(RecordError):
        cells.first_op(data)
    r, ops = cells.decode_ops(data)
    if ops:
        assert cells.first_op(data) == ops[0].n
    hub = HubKeys(MemoryView())
    hub.now_ms = 1_700_000_000_000
    for op in ops:
        hub.hear(r, op)
    entries, _, _ = hub.page(0, 0)
    cells.encode_entries(entries)


def pages() -> list[bytes]:
    hub = HubKeys(MemoryView())
    hub.now_ms = 1_700_000_000_000
    for raw in operations():
        r, ops = cells.decode_ops(raw)
        for op in ops:
            hub.hear(r, op)
    return [cells.encode_entries(hub.page(base, 0)[0]) for base in (0, 2)]


def run_page(data: bytes) -> None:
    """A page from the hub: refused whole, or an edge can take it and go on."""
    space = filled()
    space.deliver(cells.decode_entries(data), 3)
    for name in space.names():
        space.type_of(name)
    space.put(b"key", b"s", b"new")


def requests() -> list[bytes]:
    return [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*1\r\n$4\r\nPING\r\n",
        b"set 'a b' \"c\\x41\\n\"\r\nPING\r\n",
        b"*0\r\n*-1\r\n*2\r\n$4\r\necho\r\n$0\r\n\r\n",
        b"*4000000000\r\n",
    ]


def run_requests(data: bytes) -> None:
    """However the bytes are cut, the same requests; and no more is held than was sent."""
    whole, pieces = Parser(bytes_max=1 << 20), Parser(bytes_max=1 << 20)
    found = whole.feed(data)
    half = len(data) // 2
    assert pieces.feed(data[:half]) + pieces.feed(data[half:]) == found
    assert whole.error == pieces.error
    if whole.error:
        raise RecordError(whole.error)


def logs() -> list[bytes]:
    kept = json.loads((FOLDER / "wal-1.json").read_text())
    return [bytes.fromhex(kept["bytes"])]


def run_log(data: bytes) -> None:
    """Whatever stands in it, a log is some whole entries, and then something else."""
    found = replay(data, LAP)
    assert sum(len(key) + len(value or b"") for key, value in found.items()) <= len(data)
    if b"a" not in found:
        raise RecordError("the last entry is not there")


def repair_log(data: bytes, rng: random.Random) -> bytes:
    """Make whole the first entry, and sometimes those after it."""
    out, at, number = bytearray(data), 0, 1
    while len(out) - at >= 24:
        size = min(int.from_bytes(out[at + 4 : at + 8], "little"), len(out) - at - 24)
        struct.pack_into("<I8sQ", out, at + 4, size, LAP, number)
        struct.pack_into("<I", out, at, crc32c(bytes(out[at + 4 : at + 24 + size])))
        at, number = at + 24 + size, number + 1
        if not rng.randrange(3):
            break
    return bytes(out)


TARGETS = [
    Target("cell", cells_written(), run_cell, (RecordError,)),
    Target("key-record", records(), run_record, (RecordError, ValueError)),
    Target(
        "version-vector",
        [VersionVector({1: 5, 7: 1 << 40}).encode(), VersionVector().encode()],
        VersionVector.decode,
        (RecordError,),
    ),
    Target("resp", requests(), run_requests, (RecordError,)),
    Target("operations", operations(), run_operations, (RecordError,)),
    Target("page", pages(), run_page, (RecordError,)),
    Target("write-ahead log", logs(), run_log, (RecordError,), repair_log),
]
