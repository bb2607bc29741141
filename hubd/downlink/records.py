"""Records of the hub's journal as payloads of batches: codec 0 of docs/batch-format.md.   [sans-IO]

An edge's journal packs rows of its store in compiled code; here are a few events at a time, from a
table of SQL, and the format is written as its page says.
"""

import struct
from collections.abc import Sequence

import msgspec

from edgesync._native import batch
from edgesync.model import RecordKind
from edgesync_transport.messages import Codec

ROW_BYTES = 36
_BARE = struct.Struct("<IBBH")


class DownRecord(msgspec.Struct, frozen=True):
    """An event for an edge; (origin, seq) is its id."""

    seq: int
    origin: int
    body: bytes


def pack(records: Sequence[DownRecord]) -> bytes:
    """Return the payload that holds `records`, which follow one another."""
    bare = b"".join(_BARE.pack(len(one.body), RecordKind.EVENT, 0, 0) + one.body for one in records)
    ranges = _ranges(records)
    head = struct.pack("<IB", sum(ROW_BYTES + len(one.body) for one in records), 1)
    head += _varint(len(records)) + _varint(len(ranges))
    for origin, first, count in ranges:
        head += struct.pack("<Q", origin) + _varint(first) + _varint(count)
    # No oddities; the bare rows as they are.
    return head + _varint(0) + _varint(len(bare)) + _varint(0) + bare


def chain_after(record: DownRecord, prev_chain: int) -> int:
    """Return the running hash at a record."""
    return batch.last_chain(Codec.ROWS, pack([record]), prev_chain)


def _ranges(records: Sequence[DownRecord]) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for one in records:
        if found and found[-1][0] == one.origin and sum(found[-1][1:]) == one.seq:
            found[-1] = (one.origin, found[-1][1], found[-1][2] + 1)
        else:
            found.append((one.origin, one.seq, 1))
    return found


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
