"""What the hub tells this edge: its effect and the floor are one transaction.

    floor   highest seq of a lane whose effect is on disk, and the running hash there

So a record takes effect once, however often it is sent and whenever the edge is killed. A kind that
no part knows, from a newer hub say, is kept as an event, which the hub sees; so is a gap. What
files say of a batch is written before, all at once, and says the same when it is told again.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

import msgspec
import trio

from edgesync._native import batch as codec
from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import RecordError, StoreError
from edgesync.model import EntityType, Event, EventType, Lane, RecordKind
from edgesync.redaction import hidden_bytes
from edgesync.store.commit import Tails
from edgesync.store.journal import META, EdgeStore
from edgesync_transport.lanes.events import DownFloors, Stored
from edgesync_transport.messages import Batch, Codec, LaneFloor, NackCode

log = logging.getLogger(__name__)

KEY: Final = b"downlink"
LIMIT_BYTES: Final = 4 << 20
BUSY_S: Final = 2.0
NONE: Final = LaneFloor(floor=0, chain=0, safe=0)
# Bytes a second that a hub may have stored here in the long run, with so much for each batch, and
# how many seconds of that at once: 64 MiB, more than a hub keeps for an edge. A disk lasts.
RATE: Final = 128 << 10
BATCH_BYTES: Final = 1024
BURST_S: Final = (64 << 20) / RATE
TOO_MUCH: Final = "the hub tells more than this edge may store"
# What is no batch of records.
INSTEAD: Final = (Codec.GAP, Codec.DEAD)
NOWHERE: Final = DownFloors(b"", (NONE, NONE, NONE))


class NoRoom(Exception):
    """What came cannot be taken now; the hub keeps it and sends it again."""


class Handler(Protocol):
    """Whose business a kind of event from the hub is."""

    def stage(self, write: Write, event: Event) -> Callable[[], None]:
        """Add the effect to `write`; returns what is done once that is on disk.

        Raises RecordError for an event that can never be taken, NoRoom for one that cannot now.
        Several may be staged before any is on disk, or none of them ever is.
        """
        ...


@runtime_checkable
class FileHandler(Handler, Protocol):
    """... who keeps something of it in files, beside the store."""

    def has_file(self, event: Event) -> bool:
        """Return whether a file is to say something of this event."""
        ...

    def write_files(self, events: Sequence[Event]) -> None:
        """Write what all such events of a batch say, in a thread; durable on return.

        Called before the transaction of the batch, and once more with it if that fails: told twice,
        a file says the same. Each event was staged before. Raises RecordError, NoRoom.
        """
        ...


class _Effect(NamedTuple):
    write: Write
    done: list[Callable[[], None]]
    files: dict[int, tuple[FileHandler, list[Event]]]


class Inbound:
    """See the module.

    handlers   by kind of event; looked up when an event comes
    grown      called with the journal's tails after a commit that appended
    missed     called after a commit that says what this edge is not sent again: somebody else had
               it, a clone of this edge or its store of before
    """

    def __init__(
        self,
        store: EdgeStore,
        *,
        edge: str,
        wall_ns: Callable[[], int],
        grown: Callable[[Tails], None] = lambda _tails: None,
        missed: Callable[[], None] = lambda: None,
        handlers: Mapping[int, Handler] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._edge = edge
        self._wall_ns = wall_ns
        self._grown = grown
        self._missed = missed
        self.handlers: Mapping[int, Handler] = {} if handlers is None else handlers
        self._stored = load_floors(store)
        self._floors = self._stored  # of the session; of a journal met first its start
        self.records = 0
        # When RATE will have caught up with what was stored.
        self._clock = clock
        self._paid_at = 0.0

    def floors(self) -> DownFloors:
        """Return what is on disk, which is what a greeting tells.

        A journal of which nothing came yet is told as unknown: a hub that was restored once more
        would take its start for something that this edge had (D11).
        """
        return self._stored

    async def store(self, token: int, batch: Batch) -> Stored:
        """Carry out a batch; durable when this returns, or refused with nothing changed."""
        lane = batch.lane
        floor = self._floor(batch.incarnation, lane)
        if floor is None or batch.first > floor.floor + 1:
            at = 0 if floor is None else floor.floor
            return Stored(token, at, at, code=NackCode.GAP, reason=f"expected {at + 1}")
        if batch.last <= floor.floor:
            return Stored(token, floor.floor, floor.floor)
        if batch.first != floor.floor + 1 or batch.prev_chain != floor.chain:
            return Stored(token, floor.floor, floor.floor, code=NackCode.CHAIN, reason="chain")
        if (wait_s := self._debt_s() - BURST_S) > 0:
            return Stored(token, 0, 0, code=NackCode.BUSY, reason=TOO_MUCH, pause_s=wait_s)
        try:
            effect = self._effect(batch)
            if effect.files:
                await trio.to_thread.run_sync(_write_files, effect)
                effect = self._effect(batch)  # what was staged is of the time before
        except RecordError as error:
            return Stored(token, 0, 0, code=NackCode.POISON, reason=str(error))
        except NoRoom as error:
            return Stored(token, 0, 0, code=NackCode.BUSY, reason=str(error), pause_s=BUSY_S)
        except Exception as error:  # A bug of ours costs this record, not the link: I8.
            log.exception("downlink: a batch failed: lane=%d first=%d", lane, batch.first)
            return Stored(token, 0, 0, code=NackCode.POISON, reason=f"the edge failed: {error!r}")
        reached = self._replaced(batch)
        effect.write.put(META, KEY, _encode(reached), essential=True)
        try:
            tails = await self._store.submit(effect.write)
        except StoreError as error:
            log.error("downlink waits for the disk: %s", error)
            return Stored(token, 0, 0, code=NackCode.BUSY, reason=str(error), pause_s=BUSY_S)
        self._stored = reached
        if self._floors.incarnation == reached.incarnation:
            self._floors = reached
        for done in effect.done:
            done()
        self._paid_at += (len(batch.payload) + BATCH_BYTES) / RATE
        if batch.codec not in INSTEAD:
            self.records += batch.last - batch.first + 1
        self._grown(tails)
        return Stored(token, batch.last, batch.last)

    def begin(self, incarnation: bytes, floors: tuple[LaneFloor, ...]) -> None:
        """Note of which journal batches come in this session; on disk with the first of them."""
        if incarnation != self._floors.incarnation:
            # The first one of an edge is no surprise; with another one the hub was restored.
            level = logging.WARNING if self._floors.incarnation else logging.INFO
            log.log(level, "downlink: another journal of the hub: %s", incarnation.hex())
        self._floors = DownFloors(incarnation, floors)

    def _debt_s(self) -> float:
        """Return how far what was stored is ahead of RATE."""
        now = self._clock()
        self._paid_at = max(self._paid_at, now)
        return self._paid_at - now

    def _floor(self, incarnation: bytes, lane: Lane) -> LaneFloor | None:
        return self._floors.lanes[lane] if incarnation == self._floors.incarnation else None

    def _replaced(self, batch: Batch) -> DownFloors:
        lanes = list(self._floors.lanes)
        lanes[batch.lane] = LaneFloor(floor=batch.last, chain=batch.last_chain, safe=batch.last)
        return DownFloors(batch.incarnation, tuple(lanes))

    # -- effects ---------------------------------------------------------------------------------

    def _effect(self, batch: Batch) -> _Effect:
        effect = _Effect(Write(), [], {})
        if batch.codec in INSTEAD:
            what = "downlink_gap" if batch.codec is Codec.GAP else "downlink_refused"
            facts = {
                "lane": batch.lane.name.lower(), "first": batch.first, "last": batch.last,
                "reason": batch.reason,
            }  # fmt: skip
            self._report(effect.write, what, facts)
            log.error("%s: %s", what, facts)
            if batch.codec is Codec.GAP:
                effect.done.append(self._missed)
            return effect
        _, records = codec.columns(batch.codec, batch.payload, limit_bytes=LIMIT_BYTES)
        count = batch.last - batch.first + 1
        if len(records) != count or any(one.kind != RecordKind.EVENT for _, one in records):
            raise RecordError(f"{len(records)} events in a batch of {count}")
        chain = codec.last_chain(batch.codec, batch.payload, batch.prev_chain)
        if chain != batch.last_chain:
            raise RecordError("the records do not lead to the running hash they came with")
        for _, record in records:
            self._stage(effect, event_of(record.body))
        return effect

    def _stage(self, effect: _Effect, event: Event) -> None:
        handler = self.handlers.get(event.type)
        if handler is not None:
            effect.done.append(handler.stage(effect.write, event))
            if isinstance(handler, FileHandler) and handler.has_file(event):
                effect.files.setdefault(id(handler), (handler, []))[1].append(event)
            return
        facts = {
            "type": event.type, "action": event.action, "entity_type": event.entity_type,
            "entity": event.entity_id,
            "body": hidden_bytes(event.body).decode(errors="replace")[:4096],
        }  # fmt: skip
        self._report(effect.write, "downlink_unknown", facts)

    def _report(self, write: Write, what: str, facts: Mapping[str, object]) -> None:
        now = self._wall_ns()
        body = msgspec.json.encode({"what": what, **facts})
        raw = event_codec.encode(
            EventType.LIFECYCLE, 0, EntityType.EDGE, self._edge, body, now, now, 0
        )
        write.append(Lane.CRITICAL, RecordKind.EVENT, raw)


def _write_files(effect: _Effect) -> None:
    for handler, events in effect.files.values():
        handler.write_files(events)


def event_of(raw: bytes) -> Event:
    """Return the event that a record holds; raises RecordError."""
    type_, action, entity_type, entity_id, body, time_ns, created_ns, hlc = event_codec.decode(raw)
    return Event(
        type=type_, action=action, entity_type=entity_type, entity_id=entity_id, body=body,
        time_ns=time_ns, created_ns=created_ns, hlc=hlc,
    )  # fmt: skip


def load_floors(store: EdgeStore) -> DownFloors:
    raw = store.store.get(META, KEY)
    if raw is None:
        return NOWHERE
    incarnation, lanes = msgspec.msgpack.decode(raw, type=tuple[bytes, tuple[tuple[int, int], ...]])
    return DownFloors(
        incarnation, tuple(LaneFloor(floor=at, chain=chain, safe=at) for at, chain in lanes)
    )


def _encode(floors: DownFloors) -> bytes:
    return msgspec.msgpack.encode(
        (floors.incarnation, [(lane.floor, lane.chain) for lane in floors.lanes])
    )


class InboundQueue:
    """Batches that wait to be carried out, in order; the lanes bound how many there are.

    They outlive the session that brought them. So the next greeting waits until it is `empty`: a
    floor told before would move once more, by a batch that the hub may have lost since (D9).
    """

    def __init__(self, inbound: Inbound, answer: Callable[[Stored], None]) -> None:
        self._inbound = inbound
        self._answer = answer
        self._asked, self._waiting = trio.open_memory_channel[tuple[int, Batch]](1000)
        self._count = 0
        self._emptied = trio.Event()

    def put(self, token: int, batch: Batch) -> None:
        self._asked.send_nowait((token, batch))
        self._count += 1

    async def empty(self) -> None:
        """Return once everything is carried out."""
        while self._count:
            await self._emptied.wait()

    async def run(self) -> None:
        async for token, batch in self._waiting:
            stored = await self._inbound.store(token, batch)
            self._count -= 1
            if not self._count:
                self._emptied.set()
                self._emptied = trio.Event()
            self._answer(stored)
