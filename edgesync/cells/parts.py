r"""Operations in records: cut where they are too large for one, joined again at the hub.

body    part u8 | bytes      part: bit 0 more follow, bit 1 goes on with the one before

The bytes, joined, are operations; or `\0 o`, four bytes of the keyspace that their writer knew, and
operations; or `\0 h` and a piece of what an edge holds (held.py).
"""

from typing import Final

from edgesync.errors import RecordError

PART_BYTES: Final = 48 * 1024
# One operation is at most a value, its key and its cell; a group ends with the one that fills it.
WHOLE_BYTES_MAX: Final = 64 << 20
MORE: Final = 1
GOES_ON: Final = 2


OPS: Final = b"\0o"
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


def ops_of(data: bytes) -> tuple[bytes, bytes]:
    """Return the beginning of the keyspace their writer knew, if it says so, and operations."""
    if not data.startswith(OPS):
        return b"", data
    end = len(OPS) + KEYSPACE_BYTES
    return data[len(OPS) : end], data[end:]
