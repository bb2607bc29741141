r"""Operations in records: cut where they are too large for one, joined again at the hub.

body    part u8 | bytes      part: bit 0 more follow, bit 1 goes on with the one before

The bytes, joined, are a tag and operations, or `\0 h` and a piece of what an edge holds (held.py).
The tag, which older edges leave out in part:

    \0 o   keyspace that the writer knew, its first 4 bytes
    \0 n   ... | opening u32 LE | replica the edge is now u32 LE
"""

import struct
from typing import Final

import msgspec

from edgesync.errors import RecordError

PART_BYTES: Final = 48 * 1024
# One operation is at most a value, its key and its cell; a group ends with the one that fills it.
WHOLE_BYTES_MAX: Final = 64 << 20
MORE: Final = 1
GOES_ON: Final = 2


OPS: Final = b"\0o"
NAMED_OPS: Final = b"\0n"
NAMES: Final = struct.Struct("<II")
HELD: Final = b"\0h"
KEYSPACE_BYTES: Final = 4


def cut(data: bytes) -> list[bytes]:
    """Return the bodies of the records that hold `data`."""
    bodies = []
    for at in range(0, len(data), PART_BYTES):
        part = MORE * (at + PART_BYTES < len(data)) | GOES_ON * (at > 0)
        bodies.append(bytes([part]) + data[at : at + PART_BYTES])
    return bodies


def goes_on(body: bytes) -> bool:
    """Whether the record goes on with the one before."""
    return bool(body[0] & GOES_ON)


def join(before: bytes, body: bytes) -> tuple[bytes, bool]:
    """Return `before` with the next part, and whether that was the last; raises RecordError.

    A part that begins something new means that the rest of what was before is never to come.
    """
    if not body or body[0] > MORE | GOES_ON:
        raise RecordError("a record of operations with a part of an unknown kind")
    if body[0] & GOES_ON and not before:
        raise RecordError("a record of operations that goes on with one that is not there")
    if len(before) + len(body) > WHOLE_BYTES_MAX:
        raise RecordError(f"operations of over {WHOLE_BYTES_MAX} bytes")
    data = before if body[0] & GOES_ON else b""
    return data + body[1:], not body[0] & MORE


class Tag(msgspec.Struct, frozen=True):
    """What stands before operations.

    keyspace   the beginning of the one their writer knew; empty from an old edge
    opening    of the store, in which they were made (`EdgeKeys.open_as`); 0 from an old edge
    replica    which the edge is by now; 0: that they were written as
    """

    keyspace: bytes = b""
    opening: int = 0
    replica: int = 0

    def encode(self) -> bytes:
        return NAMED_OPS + self.keyspace + NAMES.pack(self.opening, self.replica)


def ops_of(data: bytes) -> tuple[Tag, bytes]:
    """Return the tag of operations, and them; raises RecordError."""
    kind = data[: len(OPS)]
    if kind not in (OPS, NAMED_OPS):
        return Tag(), data
    end = len(kind) + KEYSPACE_BYTES
    keyspace = data[len(kind) : end]
    if kind == OPS:
        return Tag(keyspace), data[end:]
    if len(data) < end + NAMES.size:
        raise RecordError("operations cut short within their tag")
    return Tag(keyspace, *NAMES.unpack_from(data, end)), data[end + NAMES.size :]
