"""Stores what sources and programs bring, and tells the link that the journal has grown.

The recorder owns the store, the intake that turns readings into records, and the pace at which the
link hears of them. Every call that says "stored" returns after the commit (I1).
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgesync import __version__, events
from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import RecordError, StoreError
from edgesync.intake import Intake, Staged
from edgesync.model import (
    Action,
    EntityType,
    Event,
    EventType,
    Lane,
    Reading,
    RecordKind,
)  # fmt: skip
from edgesync.parts import table
from edgesync.parts.part import Context, Part
from edgesync.redaction import hidden_bytes
from edgesync.refusal import refusal_reason
from edgesync.status import EventView, LaneStatus, StoreStatus, resident_bytes
from edgesync.store.commit import Tails
from edgesync.store.dead import dead_letters, note_refusal
from edgesync.store.journal import EdgeStore, Retain
from edgesync.sync.pace import Pace

if TYPE_CHECKING:
    from edgesync.sync.driver import SyncDriver

log = logging.getLogger(__name__)

STORE: Final = "store"
EVENT_BODY_MAX: Final = 60 * 1024


class Recorder(Part):
    """See the module.

    readings, events   stored since the start
    """

    store: EdgeStore
    intake: Intake

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.readings = self.events = 0
        self._started_at = time.monotonic()
        self._oldest_pending_at: float | None = None
        self._has_announced = False
        self._driver: SyncDriver | None = None
        self._pace: Pace | None = None
        policies = context.settings.sync.policies().items()
        self._giving_way = [lane for lane, policy in policies if policy.overflow != "refuse"]

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the store, moving an unreadable one aside; or, beside a daemon, for reading only."""
        context, image = self.context, self.context.image
        self.store = self._open_store()
        try:
            series_max = context.settings.series.max
            self.intake = Intake(self.store.series, series_max=series_max)
            image.limit = max(series_max, len(self.store.series))
            if context.is_readonly:
                image.load(events.latest(self.store))
            if self.store.moved_to is not None:
                moved = {"moved_to": str(self.store.moved_to), "reason": "unreadable at start"}
                self.emit_sync(self._lifecycle("store_replaced", moved), Lane.CRITICAL)
        except BaseException:
            self.store.close()
            raise

    def _open_store(self) -> EdgeStore:
        context, section = self.context, self.context.settings.store
        path = context.data_dir / STORE
        if context.is_readonly:
            return EdgeStore(
                path,
                map_bytes_max=int(section.limit),
                databases=table.databases(),
                readonly=True,
            )
        context.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return EdgeStore(
            path,
            map_bytes_max=int(section.limit),
            retain=Retain(nbytes=int(section.retain)),
            databases=table.databases(),
            replace_unreadable=True,
            clock_ns=context.wall_ns,
            overflow=context.settings.sync.policies(),
        )

    async def announce(self) -> None:
        """Store the event that the node has started; `close` stores that it has stopped."""
        self._has_announced = True
        await self.report("started", {"version": __version__})

    def close(self) -> None:
        try:
            if self._has_announced and self.store.commit.broken is None:
                stopped = self._lifecycle("stopped", {})
                with refusal_logged(stopped.body):
                    self.emit_sync(stopped)
        finally:
            self.store.close()

    # -- readings --------------------------------------------------------------------------------

    async def ingest(self, readings: Sequence[Reading]) -> None:
        """Store readings, all or none; raises StoreFull, RecordError.

        With rules, they decide what of them is stored, and what is sent.
        """
        if not readings:
            return
        rules = self.context.parts.find("rules")
        if rules is not None and rules.takes_readings:
            await rules.ingest(readings)
            return
        write = Write()
        staged = self.intake.stage(write, readings)
        with self._keeping(write, readings):
            tails = await self.store.submit(write)
        self.note_readings(readings, staged)
        self.note_grown(tails)
        if self.context.settings.series.ingested:
            self.context.parts.get("points").flush_soon()

    def ingest_sync(self, readings: Sequence[Reading]) -> None:
        """Do as `ingest` does, from a plain program."""
        if not readings:
            return
        write = Write()
        staged = self.intake.stage(write, readings)
        with self._keeping(write, readings):
            self.store.submit_sync(write)
        self.note_readings(readings, staged)
        if self.context.settings.series.ingested:
            self.context.parts.get("points").flush_sync()

    def _keeping(
        self, write: Write, readings: Sequence[Reading]
    ) -> contextlib.AbstractContextManager[None]:
        """Keep them for questions here, if the settings say so; the block carries `write` out."""
        if not self.context.settings.series.ingested:
            return contextlib.nullcontext()
        return self._points_keeping(write, readings)

    def _points_keeping(
        self, write: Write, readings: Sequence[Reading]
    ) -> contextlib.AbstractContextManager[None]:
        keeping: contextlib.AbstractContextManager[None] = self.context.parts.get(
            "points"
        ).store.keeping(write, readings)
        return keeping

    def note_readings(self, readings: Sequence[Reading], staged: Staged) -> None:
        """Count readings that are stored, and show them."""
        self.readings += len(readings)
        self._note(readings, staged)

    def _note(self, readings: Sequence[Reading], staged: Staged) -> None:
        self.intake.confirm(staged.declared)
        self.context.image.update(readings, staged.newest)

    async def store_together(
        self,
        kept: Sequence[Reading],
        pushed: Mapping[Lane, Sequence[Reading]],
        told: Sequence[tuple[Event, Lane]],
        database: str,
        rows: dict[bytes, bytes | None],
    ) -> None:
        """Store in one transaction what rules want done (I2); raises StoreFull, RecordError.

        kept      readings for questions here; pushed: those for the hub
        database  where `rows` are put
        """
        write = Write()
        with self.intake.all_or_none():
            staged = [
                (readings, self.intake.stage(write, readings, lane))
                for lane, readings in pushed.items()
            ]
            # Of a series that is kept and sent, what is sent is shown.
            staged.insert(0, (kept, Staged(self.intake.stage_names(write, kept))))
            for event, lane in told:
                write.append(lane, RecordKind.EVENT, self._encoded(event))
        write.put_all(database, rows)
        with self._points_keeping(write, kept) if kept else contextlib.nullcontext():
            tails = await self.store.submit(write)
        self.events += len(told)
        for readings, one in staged:
            self._note(readings, one)
        self.readings += max(len(kept), sum(len(one) for one in pushed.values()))
        self.note_grown(tails)
        if kept:
            self.context.parts.get("points").flush_soon()

    # -- events ----------------------------------------------------------------------------------

    async def emit(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Store an event; raises StoreFull, RecordError. Rules take attributes of devices."""
        rules = self.context.parts.find("rules")
        if rules is not None and await rules.took(event):
            return
        await self.emit_together([(event, lane)])

    async def emit_together(self, events: Sequence[tuple[Event, Lane]]) -> None:
        """Store events, all or none, that are nothing to rules; raises StoreFull, RecordError."""
        if not events:
            return
        tails = await self.store.submit(self._events_write(events))
        self.events += len(events)
        self.note_grown(tails)

    def emit_sync(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        """Do as `emit` does, from a plain program."""
        self.store.submit_sync(self._events_write([(event, lane)]))
        self.events += 1

    def _events_write(self, events: Sequence[tuple[Event, Lane]]) -> Write:
        write = Write()
        for event, lane in events:
            write.append(lane, RecordKind.EVENT, self._encoded(event))
            if reason := refusal_reason(event.type, event.body):
                note_refusal(self.store, write, event.entity_id, reason, self.context.wall_ns())
        return write

    def _encoded(self, event: Event) -> bytes:
        if len(event.body) > EVENT_BODY_MAX:
            raise RecordError(f"an event's body is at most {EVENT_BODY_MAX} bytes")
        return event_codec.encode(
            event.type,
            event.action,
            event.entity_type,
            event.entity_id,
            event.body,
            event.time_ns,
            event.created_ns or self.context.wall_ns(),
            event.hlc,
        )

    async def report(
        self, what: str, facts: Mapping[str, str | int | float], lane: Lane = Lane.NORMAL
    ) -> bool:
        """Store a lifecycle event of this edge; returns whether it is on disk.

        A full store or a disk that refuses is logged and ends nothing (I8).
        """
        event = self._lifecycle(what, facts)
        with refusal_logged(event.body):
            await self.emit(event, lane)
            return True
        return False

    async def report_loss(self, lane: Lane, first: int, last: int, reason: str) -> None:
        """Store a loss record for the records `first` to `last` of a lane."""
        loss = {"lane": int(lane), "first": first, "last": last, "reason": reason}
        body = msgspec.json.encode(loss)
        event = Event(type=EventType.LOSS, body=body, time_ns=self.context.wall_ns())
        with refusal_logged(body):
            await self.emit(event, Lane.CRITICAL)

    def _lifecycle(self, what: str, facts: Mapping[str, str | int | float]) -> Event:
        return Event(
            type=EventType.LIFECYCLE,
            action=Action.NONE,
            entity_type=EntityType.EDGE,
            entity_id=self.context.settings.edge.name,
            body=msgspec.json.encode({"what": what, **facts}),
            time_ns=self.context.wall_ns(),
        )

    # -- the link --------------------------------------------------------------------------------

    def follow(self, driver: "SyncDriver") -> None:
        """Let the driver hear of what is stored from here on."""
        self._driver = driver
        self._pace = Pace(float(self.context.settings.sync.interval), driver.grown)
        self.context.parts.start_soon(self._pace.run)

    def note_grown(self, tails: Tails) -> None:
        """Take note of a commit that appended records; `tails` is what it returned."""
        if self._oldest_pending_at is None:
            self._oldest_pending_at = time.monotonic()
        if self._pace is not None and self._driver is not None:
            for lane in self._giving_way:
                self._driver.gone(lane, self.store.state(lane).trimmed)
            self._pace.grown(tails)

    def flush(self) -> None:
        """Let the link hear of everything now, whatever `[sync] interval` says."""
        if self._pace is not None:
            self._pace.flush()

    def tails(self) -> Tails:
        first, second, third = (self.store.state(lane).tail for lane in Lane)
        return (first, second, third)

    def find_events(self, query: events.EventQuery) -> list[EventView]:
        """Return events of the journal, the newest first, with what became of each."""
        lanes = [self.lane_status(lane) for lane in Lane]
        floors, sent = [lane.floor for lane in lanes], [lane.sent for lane in lanes]
        dead = {(letter.lane, letter.seq) for letter in dead_letters(self.store)}
        return list(events.find(self.store, query, floors, sent, dead))

    # -- status ----------------------------------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        lanes = tuple(self.lane_status(lane) for lane in Lane)
        if not any(lane.pending for lane in lanes):
            self._oldest_pending_at = None
        now, oldest_at = time.monotonic(), self._oldest_pending_at
        return {
            "edge": self.context.settings.edge.name,
            "version": __version__,
            "running": self.context.parts.nursery is not None,
            "rss_bytes": resident_bytes(),
            "incarnation": self.store.incarnation.hex(),
            "uptime_s": now - self._started_at,
            "readings": self.readings,
            "events": self.events,
            "series": len(self.store.series),
            "series_max": self.context.settings.series.max,
            "series_refused": self.intake.refused,
            "oldest_pending_s": None if oldest_at is None else now - oldest_at,
            "lanes": lanes,
            "store": self._store_status(),
        }

    def lane_status(self, lane: Lane) -> LaneStatus:
        """Return the positions of a lane, those of the link included."""
        state = self.store.state(lane)
        window = self._driver.sender.lanes[lane] if self._driver else None
        floor = window.floor if window else state.floor
        overflow = self.store.overflow
        shed = overflow.shed(lane)
        acks = window.ack_times if window else None
        return LaneStatus(
            lane=lane.name.lower(),
            tail=state.tail,
            sent=window.sent if window else floor,
            floor=floor,
            safe=state.safe,
            trimmed=state.trimmed,
            pending=state.tail - max(floor, state.trimmed),
            stored_bytes=state.stored_bytes,
            overflow=overflow.overflow(lane),
            refused=overflow.refused[lane],
            dropped=shed.records,
            dropped_readings=shed.readings,
            filled=overflow.filled(lane, state),
            ack_counts=tuple(acks.counts) if acks else (),
            ack_sum_s=acks.sum_s if acks else 0.0,
            ack_p99_s=acks.p99_s() if acks else None,
        )

    def _store_status(self) -> StoreStatus:
        stats, broken = self.store.commit.stats(), self.store.commit.broken
        keys = self.context.parts.find("keys")
        return StoreStatus(
            path=self.store.path,
            used_bytes=self.store.store.used_bytes,
            limit_bytes=self.store.store.map_bytes_max,
            commits=stats.groups + (0 if keys is None else keys.cells.logged),
            last_commit_s=stats.last_commit_s,
            problem=str(broken) if broken else "",
            quarantined=len(self.store.quarantined()),
        )

    def busy_s(self) -> float:
        """Return how long the commit under way has taken so far: it grows when a disk is dead."""
        keys = self.context.parts.find("keys")
        keys_s = 0.0 if keys is None else keys.cells.busy_s()
        return max(keys_s, self.store.commit.stats().busy_s)


@contextlib.contextmanager
def refusal_logged(told: bytes) -> Iterator[None]:
    """Log what the store has no room for, or a failing disk refuses, and end nothing else (I8)."""
    try:
        yield
    except (OSError, StoreError) as error:
        log.error("not stored: %s: %s", hidden_bytes(told).decode(errors="replace"), error)
