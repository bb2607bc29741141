"""Batches as an edge would send them, and a log that holds them."""

import json
import time
from collections.abc import Mapping, Sequence

import trio

from edgesync._native import batch, event
from edgesync.model import EventType, RecordKind, Value, ValueType, series_id
from edgesync_transport.messages import Codec, Lane, LaneFloor
from hubd.log.base import Append, Appended, Entry, Session
from tests.native.rowsmith import Draft, make_rows

Name = tuple[str, str]
START_NS = 1_767_225_600 * 10**9  # 2026-01-01
INCARNATION = b"i" * 16


def type_of(value: Value) -> ValueType:
    kinds = {bool: ValueType.BOOL, int: ValueType.I64, float: ValueType.F64, str: ValueType.TEXT}
    return kinds[type(value)]


class Edge:
    """Writes the records of one lane of one edge into entries of a log."""

    def __init__(self, name: str, lane: Lane = Lane.BULK, *, origin: int = 7) -> None:
        self.name = name
        self.origin = origin
        self.lane = lane
        self.tail = 0
        self._drafts: list[Draft] = []

    def event(
        self, kind: int, body: bytes = b"", *, entity: str = "", action: int = 0, time_ns: int = 0
    ) -> None:
        at = time_ns or START_NS
        self._draft(RecordKind.EVENT, event.encode(kind, action, 0, entity, body, at, at, 0))

    def declare(self, name: Name, unit: str = "") -> None:
        body = {"entity": name[0], "key": name[1], "unit": unit, "type": "f64"}
        self.event(EventType.SERIES, json.dumps(body).encode())

    def readings(self, time_ns: int, values: Mapping[Name, Value]) -> None:
        """One record per type of value, as readings of one time are grouped."""
        for kind in ValueType:
            some = {name: v for name, v in values.items() if type_of(v) is kind}
            if some:
                ids = [series_id(*name) for name in some]
                body = batch.readings(time_ns, kind, ids, list(some.values()))
                self._draft(RecordKind.READINGS, body)

    def record(self, kind: int, body: bytes) -> None:
        self._draft(kind, body)

    def entry(self, position: int, *, columns: bool = True) -> Entry:
        """Everything since the last entry, as one batch."""
        first = self.tail - len(self._drafts) + 1
        codec, payload = batch.pack(make_rows(self._drafts, self.lane, first), columns=columns)
        self._drafts = []
        return self._entry(position, first, self.tail, Codec(codec), payload)

    def refused(self, position: int, payload: bytes, reason: str) -> Entry:
        self.tail += 1
        return self._entry(position, self.tail, self.tail, Codec.DEAD, payload, reason)

    def gap(self, position: int, records: int, reason: str) -> Entry:
        first = self.tail + 1
        self.tail += records
        return self._entry(position, first, self.tail, Codec.GAP, b"", reason)

    def _entry(
        self, position: int, first: int, last: int, codec: Codec, payload: bytes, reason: str = ""
    ) -> Entry:
        return Entry(
            position=position, edge=self.name, incarnation=INCARNATION, lane=self.lane,
            first=first, last=last, codec=codec, payload=payload, reason=reason,
            stored_at_ns=START_NS + position,
        )  # fmt: skip

    def _draft(self, kind: int, body: bytes) -> None:
        self.tail += 1
        self._drafts.append(Draft(kind, body, origin=self.origin, number=self.tail))


class Shelf:
    """A log over a list: what edges send is put there, what the hub does by itself is appended."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._entries: list[Entry] = []
        self._grown = trio.Event()
        self.put(*entries)

    @property
    def generation(self) -> bytes:
        return b"g" * 16

    @property
    def head(self) -> int:
        return self._entries[-1].position if self._entries else 0

    @property
    def oldest(self) -> int:
        return self._entries[0].position if self._entries else self.head + 1

    def drop(self, upto: int) -> None:
        self._entries = [entry for entry in self._entries if entry.position > upto]

    def cut(self, head: int) -> None:
        """Be the log as it was when it went up to there."""
        self._entries = [entry for entry in self._entries if entry.position <= head]

    def put(self, *entries: Entry) -> None:
        self._entries += entries
        self._grown.set()
        self._grown = trio.Event()

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        found: list[Entry] = []
        for entry in self._entries:
            if entry.position > after:
                if found and sum(len(e.payload) for e in found) + len(entry.payload) > limit_bytes:
                    break
                found.append(entry)
        return found

    async def open_session(
        self, edge: str, _incarnation: bytes, _starts: Sequence[LaneFloor]
    ) -> Session:
        await trio.lowlevel.checkpoint()
        last = max((entry.last for entry in self._entries if entry.edge == edge), default=0)
        none = LaneFloor(floor=0, chain=0, safe=0)
        return Session(epoch=1, floors=(none, LaneFloor(floor=last, chain=0, safe=last), none))

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended]:
        await trio.lowlevel.checkpoint()
        self.put(*[
            Entry(
                position=self.head + nth, edge=one.edge, incarnation=one.incarnation,
                lane=one.lane, first=one.first, last=one.last, codec=one.codec,
                payload=one.payload, stored_at_ns=time.time_ns(),
            )
            for nth, one in enumerate(batches, start=1)
        ])  # fmt: skip
        return [Appended(position=0, floor=one.last, safe=one.last) for one in batches]

    async def wait_beyond(self, position: int) -> None:
        while self.head <= position:
            await self._grown.wait()
        await trio.lowlevel.checkpoint()
