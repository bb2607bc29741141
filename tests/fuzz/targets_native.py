"""The compiled decoders: events, packed values, blocks, readings, rows and batches."""

import array
import contextlib
import math
import random
import struct

from edgesync._native import batch, block, event, pack
from edgesync._native.window import Window, pack_windows, unpack_windows
from edgesync.errors import RecordError
from tests.fuzz.fuzz import Target
from tests.native.esb1 import unpack as unpacked
from tests.native.esb1 import varint
from tests.native.rowsmith import Draft, crc32c, make_rows

LIMIT = 1 << 20
START = 1_700_000_000_000_000_000
F64, I64, BOOL, TEXT = range(4)


def events() -> list[bytes]:
    return [
        event.encode(1, 2, 3, "meter0", b"body" * 5, START, 5, 6),
        event.encode(0, 0, 0, "", b"", 0, 0, 0),
        event.encode(9, 0, 0, "", b"x", -1, -1, 2**64 - 1),
        event.encode(9, 0, 0, "a text of some length", b"", 1, 1, 1),
        struct.pack("<IIQQ", 0, 2, 1 << 32, 7),
    ]


def packed_values() -> list[bytes]:
    rng = random.Random(1)
    values = [b"", b"short", b"a" * 500, b"abc" * 40 + rng.randbytes(30), rng.randbytes(100)]
    return [pack.pack(value) for value in values]


def blocks() -> list[bytes]:
    """A block of every codec, small: the checksums are repaired in plain Python."""
    rng = random.Random(2)
    fixed = array.array("q", range(START, START + 20 * 10**9, 10**9))
    jitter = array.array("q", [t + rng.randint(-5, 5) * 10**6 for t in fixed])
    sparse = array.array("q", sorted(START + rng.randint(0, 10**5) * 10**6 for _ in range(20)))
    wide = array.array("q", [-(2**63), 2**63 - 1] * 10)
    floats = [
        [20 + i / 10 for i in range(20)],
        [5.5] * 20,
        [math.nan, *(i / 100 for i in range(19))],
        [rng.choice((math.pi, math.e, math.tau)) for _ in range(20)],
        [rng.uniform(1, 2) for _ in range(20)],
        [math.sin(i / 100) for i in range(20)],
    ]
    out = [block.encode(7, F64, t, array.array("d", v)) for v in floats for t in (fixed, jitter)]
    whole = array.array("q", [i * 1000 + rng.randint(0, 9) for i in range(20)])
    noise = array.array("q", [rng.getrandbits(64) - 2**63 for _ in range(20)])
    cycle = array.array("q", [noise[i % 7] for i in range(20)])
    out += [
        block.encode(7, I64, t, v, stats=False)
        for v in (whole, noise, cycle)
        for t in (sparse, wide)
    ]
    out += [block.encode(7, BOOL, fixed, array.array("q", [i // 9 % 2 for i in range(20)]))]
    out += [block.encode(7, BOOL, fixed, array.array("q", [rng.getrandbits(1) for _ in range(20)]))]
    out += [block.encode(7, TEXT, fixed, ["on", "off"] * 10)]
    out += [block.encode(7, TEXT, fixed, [f"text {i}" for i in range(20)])]
    longer = array.array("q", range(200))
    out += [block.encode(7, F64, longer, array.array("d", [rng.gauss(0, 1) for _ in longer]))]
    out += [block.encode(7, I64, longer, array.array("q", [i * i for i in longer]))]
    return out


def seal(data: bytes, rng: random.Random) -> bytes:
    """Make the checksums right, and mostly the size too."""
    if len(data) < 64:
        return data
    out = bytearray(data)
    if rng.randrange(8):
        struct.pack_into("<I", out, 52, len(out))
    struct.pack_into("<I", out, 56, crc32c(bytes(out[64:])))
    struct.pack_into("<I", out, 60, crc32c(bytes(out[:60])))
    return bytes(out)


def run_block(data: bytes) -> None:
    """What decodes can be encoded again and comes back the same."""
    block.stats(data)
    series, vtype, times, values = block.decode(data)
    again = block.decode(block.encode(series, vtype, times, values))
    assert again[:3] == (series, vtype, times)
    same = again[3] == values or not isinstance(values, list)
    assert same
    if isinstance(values, array.array):
        assert isinstance(again[3], array.array)
        assert again[3].tobytes() == values.tobytes()


def bodies() -> list[bytes]:
    return [
        batch.readings(START, F64, [1, 2, 3], [1.5, -0.0, math.inf]),
        batch.readings(START, I64, [1], [-5]),
        batch.readings(START, BOOL, [1, 2], [True, False]),
        batch.readings(START, TEXT, [1, 2], ["on", "ünï"]),
    ]


def drafts(seed: int) -> list[Draft]:
    rng, out = random.Random(seed), []
    for i in range(rng.choice((1, 3, 12))):
        if rng.randrange(4) == 0:
            out.append(Draft(1, rng.randbytes(rng.randrange(20)), number=i))
            continue
        vtype = rng.randrange(4) if seed % 2 else F64
        series = [rng.randrange(1, 5) for _ in range(rng.randrange(1, 4))]
        value: float | str = (i / 10, i, i % 2, f"t{i % 3}")[vtype]
        body = batch.readings(START + i * 10**9, vtype, series, [value] * len(series))
        out.append(Draft(2, body, number=i))
    return out


def plain(payload: bytes, *, columns: bool) -> bytes:
    """`payload` with its compressed parts stored as they are, so that mutations reach inside."""
    at = 5
    _, at = varint(payload, at)
    ranges, at = varint(payload, at)
    for _ in range(ranges):
        _, at = varint(payload, at + 8)
        _, at = varint(payload, at)
    odd, at = varint(payload, at)
    for _ in range(odd):
        _, at = varint(payload, at)
        at += 8
    head, rest, at = payload[:at], *stored(payload, at)
    if not columns:
        return head + rest
    start = at
    series, at = varint(payload, at)
    head += rest + payload[start : at + 8 * series]
    rest, at = stored(payload, at + 8 * series)
    return head + rest + payload[at:]


def stored(payload: bytes, at: int) -> tuple[bytes, int]:
    """Return the part at `at` (as in native/bare.pxd) uncompressed, and its end."""
    raw = unpacked(payload[at:]) if payload[at:] else b""
    size, after = varint(payload, at)
    packed, after = varint(payload, after)
    return number(size) + b"\0" + raw, after + (packed or size)


def number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def payloads(*, columns: bool) -> list[bytes]:
    out = []
    for seed in range(24):
        made = [*drafts(seed), *(drafts(seed + 100) if seed % 3 == 0 else [])]
        if columns:
            made += [
                Draft(2, batch.readings(START, F64, [1, 2], [i / 2, 1]), number=i) for i in range(9)
            ]
        codec, payload = batch.pack(make_rows(made), columns=columns)
        if codec == columns:
            out += [payload, plain(payload, columns=columns)]
    return out


def run_batch(codec: int, payload: bytes) -> None:
    """What unpacks can be packed again and unpacks to the same rows."""
    batch.ids(codec, payload)
    rows = batch.unpack(codec, payload, 2, 1, 0, limit_bytes=LIMIT, limit_records=4096)
    again = batch.pack(rows, prev_chain=0)
    assert batch.unpack(*again, 2, 1, 0) == rows
    batch.columns(codec, payload, limit_bytes=LIMIT)
    batch.records(rows)


def run_rows(data: bytes) -> None:
    batch.records(data)
    run_batch(*batch.pack(data))


def run_readings(data: bytes) -> None:
    assert batch.readings(*batch.parse_readings(data)) == data


def windows() -> list[Window]:
    rng = random.Random(4)
    found = [Window() for _ in range(6)]
    for n, one in enumerate(found):
        for _ in range(n * 3):
            value = (round(rng.gauss(0, 9), 1), rng.gauss(0, 1e9), 0.0, math.nan)[n % 4]
            one.add(START + rng.randrange(60) * 10**9, value)
    return found


def packed_windows() -> list[bytes]:
    width, start = 60 * 10**9, START // (60 * 10**9) * 60 * 10**9
    inside = []
    for n in range(6):
        one = Window()
        for m in range(n * 4):
            one.add(start + m * 10**9, (m / 10, m * math.pi, -m, math.inf)[n % 4])
        inside.append((n, one))
    return [
        pack_windows(width, start, n, inside[: n + 1], sketch=sketch)
        for n in range(6)
        for sketch in (False, True)
    ]


def run_windows(data: bytes) -> None:
    """What unpacks can be packed again, and gives the same."""
    width, start, revision, found = unpack_windows(data)
    for _, one in found:
        one.quantile(0.9)
        one.merge(Window.decode(one.encode()))
    with contextlib.suppress(RecordError):
        again = pack_windows(width, start, revision, found)
        assert len(unpack_windows(again)[3]) == len(found)


def run_window(data: bytes) -> None:
    one = Window.decode(data)
    assert Window.decode(one.encode()).encode() == one.encode()


TARGETS = [
    Target("event", events(), event.decode, (RecordError,)),
    Target("pack", packed_values(), pack.unpack, (RecordError,)),
    Target("block", blocks(), run_block, (RecordError,), seal),
    Target("window", [one.encode() for one in windows()], run_window, (RecordError,)),
    Target("windows", packed_windows(), run_windows, (RecordError,)),
    Target("readings", bodies(), run_readings, (RecordError,)),
    Target("rows", [make_rows(drafts(s)) for s in range(12)], run_rows, (RecordError,)),
    Target("batch-rows", payloads(columns=False), lambda d: run_batch(0, d), (RecordError,)),
    Target("batch-columns", payloads(columns=True), lambda d: run_batch(1, d), (RecordError,)),
]
