"""Dead letters: records that the hub refused for good, and what devices sent that the edge did.

Rows of the database `dead`, in msgpack. Of a record: lane u8 | seq u64 BE, and (reason, wall clock
in ns); it stays in the journal until it is trimmed. Of a device's message: 255 | wall clock in ns
u64 BE | count u32 BE, and (reason, wall clock in ns, device); the event that has its beginning goes
into the journal in the same transaction.
"""

import itertools
from typing import Final

import msgspec

from edgesync import events
from edgesync._native.write import Write
from edgesync.model import Lane
from edgesync.status import DeadView
from edgesync.store.journal import EdgeStore

DATABASE: Final = "dead"
LISTED: Final = 1000
OF_DEVICES: Final = b"\xff"

_count = itertools.count()


class _Row(msgspec.Struct, array_like=True):
    reason: str
    at_ns: int
    device: str = ""


def dead_letter(lane: Lane, seq: int, reason: str, at_ns: int) -> Write:
    """Return the write that notes the refusal of a record."""
    write = Write()
    value = msgspec.msgpack.encode((reason, at_ns))
    write.put(DATABASE, _key(lane, seq), value, essential=True)
    return write


def note_refusal(store: EdgeStore, write: Write, device: str, reason: str, at_ns: int) -> None:
    """Have a write list what a device sent and the edge refused; beyond LISTED the oldest goes."""
    if (beyond := store.store.count(DATABASE) + 1 - LISTED) > 0:
        for key, _ in store.store.scan(DATABASE, OF_DEVICES, limit=beyond):
            write.delete(DATABASE, key)
    key = OF_DEVICES + at_ns.to_bytes(8, "big") + (next(_count) % 2**32).to_bytes(4, "big")
    write.put(DATABASE, key, msgspec.msgpack.encode((reason, at_ns, device)))


def dead_letters(store: EdgeStore, limit: int = LISTED) -> list[DeadView]:
    """Return the refused records, by lane and seq, and behind them what devices sent, by time."""
    found: list[DeadView] = []
    for key, value in store.store.scan(DATABASE, limit=limit):
        row = msgspec.msgpack.decode(value, type=_Row)
        view = DeadView(device=row.device, reason=row.reason, at_ns=row.at_ns)
        if not key.startswith(OF_DEVICES):
            lane, seq = Lane(key[0]).name.lower(), int.from_bytes(key[1:], "big")
            view = msgspec.structs.replace(view, lane=lane, seq=seq)
        found.append(view)
    return found


def replay(store: EdgeStore) -> tuple[Write, int]:
    """Return the write that appends each refused record once more, and how many it appends.

    A record that is no longer in the journal is only removed from the list; so is what a device
    sent, which has to send it anew.
    """
    write = Write()
    count = 0
    for key, _ in store.store.scan(DATABASE, OF_DEVICES, limit=LISTED):
        write.delete(DATABASE, key)
    for letter in dead_letters(store):
        if not letter.lane:
            continue
        lane = Lane[letter.lane.upper()]
        record = events.record_at(store, lane, letter.seq)
        if record is not None:
            write.append(lane, record.kind, record.body)
            count += 1
        write.delete(DATABASE, _key(lane, letter.seq))
    return write, count


def _key(lane: Lane, seq: int) -> bytes:
    return bytes([lane]) + seq.to_bytes(8, "big")
