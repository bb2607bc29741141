"""Dead letters: the records that the hub refused for good, with its reason.

Rows of the database `dead`: lane u8 | seq u64 BE, and (reason, wall clock in ns) in msgpack. The
record itself stays in the journal until it is trimmed.
"""

from typing import Final

import msgspec

from edgesync import events
from edgesync._native.write import Write
from edgesync.model import Lane
from edgesync.status import DeadView
from edgesync.store.journal import EdgeStore

DATABASE: Final = "dead"
LISTED: Final = 1000


def dead_letter(lane: Lane, seq: int, reason: str, at_ns: int) -> Write:
    """Return the write that notes the refusal of a record."""
    write = Write()
    value = msgspec.msgpack.encode((reason, at_ns))
    write.put(DATABASE, _key(lane, seq), value, essential=True)
    return write


def dead_letters(store: EdgeStore, limit: int = LISTED) -> list[DeadView]:
    """Return the refused records, by lane and seq."""
    found: list[DeadView] = []
    for key, value in store.store.scan(DATABASE, limit=limit):
        reason, at_ns = msgspec.msgpack.decode(value, type=tuple[str, int])
        lane = Lane(key[0]).name.lower()
        seq = int.from_bytes(key[1:], "big")
        found.append(DeadView(lane=lane, seq=seq, reason=reason, at_ns=at_ns))
    return found


def replay(store: EdgeStore) -> tuple[Write, int]:
    """Return the write that appends each refused record once more, and how many it appends.

    A record that is no longer in the journal is only removed from the list.
    """
    write = Write()
    count = 0
    for letter in dead_letters(store):
        lane = Lane[letter.lane.upper()]
        record = events.record_at(store, lane, letter.seq)
        if record is not None:
            write.append(lane, record.kind, record.body)
            count += 1
        write.delete(DATABASE, _key(lane, letter.seq))
    return write, count


def _key(lane: Lane, seq: int) -> bytes:
    return bytes([lane]) + seq.to_bytes(8, "big")
