"""Rows made in plain Python: the checksum, the running hash and the layout, written a second time.

The tests compare what the compiled code makes with what comes out of here.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

MASK = (1 << 64) - 1
K0, K1, K2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F


def fold(a: int, b: int) -> int:
    product = (a & MASK) * (b & MASK)
    return (product & MASK) ^ (product >> 64)


def hash64(data: bytes, seed: int) -> int:
    h = seed ^ len(data) * K0 & MASK
    for at in range(0, len(data), 16):
        a, b = struct.unpack("<QQ", data[at : at + 16].ljust(16, b"\0"))
        h = fold(a ^ K1, b ^ h)
    return fold(h ^ K0, K2)


def mix_chain(prev: int, h: int) -> int:
    return fold(prev ^ K0, h ^ K1) or 1


def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        c = byte
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 if c & 1 else 0)
        table.append(c)
    return table


TABLE = crc_table()


def crc32c(data: bytes) -> int:
    c = 0xFFFFFFFF
    for byte in data:
        c = TABLE[(c ^ byte) & 0xFF] ^ (c >> 8)
    return c ^ 0xFFFFFFFF


class Draft(NamedTuple):
    """What a record is made of."""

    kind: int
    body: bytes
    origin: int = 99
    number: int = 0
    flags: int = 0
    chain: int | None = None  # in place of the one that follows


def chain_after(prev: int, draft: Draft) -> int:
    seed = fold(draft.origin ^ K1, draft.number ^ K2) ^ draft.kind
    return mix_chain(prev, hash64(draft.body, seed))


def make_rows(drafts: Iterable[Draft], lane: int = 2, first: int = 1, prev_chain: int = 0) -> bytes:
    """Rows as a journal stores them."""
    rows, chain = [], prev_chain
    for seq, draft in enumerate(drafts, first):
        chain = chain_after(chain, draft) if draft.chain is None else draft.chain
        rest = struct.pack("<BBHQQQ", draft.kind, draft.flags, 0, chain, draft.origin, draft.number)
        rest += draft.body
        checksum = crc32c(struct.pack("<QB", seq, lane) + rest)
        rows.append(struct.pack("<II", len(rest) + 4, checksum) + rest)
    return b"".join(rows)
