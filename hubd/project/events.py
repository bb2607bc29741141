"""The events projector: what edges told, what was refused for good, and what is lost."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa

from edgesync import resend
from edgesync._native import batch, event
from edgesync.errors import RecordError
from edgesync.model import Action, EventType, RecordKind
from edgesync.refusal import refusal_reason
from edgesync_transport.messages import Codec
from hubd.db.dialect import insert_rows
from hubd.log.base import ENTRY_BYTES_MAX, Entry
from hubd.project.cursors import CommitsEach
from hubd.project.feed import PART_WORK, Part
from hubd.project.live import Live
from hubd.project.totals import Totals
from hubd.rules.reports import is_of_rules
from hubd.state import tables

STORED: Final = "stored"
DEAD: Final = "dead"  # refused for good, by the hub or by the edge of its device; kept as it came
LOST: Final = "lost"  # does not exist any more; the row stands in its place
UNREADABLE: Final = "unreadable"  # stored, but this hub cannot decode it

# A row of 18 columns, and its body.
RECORD_COST: Final = 64
BYTES_A_UNIT: Final = 16


Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class LossBody(msgspec.Struct, frozen=True):
    """The body of a LOSS event.

    policy   what gave way in a full lane: the lane's gap says which of the records are missing here
    """

    lane: Annotated[int, msgspec.Meta(ge=0, le=255)]
    first: Seq
    last: Seq
    reason: str = ""
    policy: str = ""


class Rows(msgspec.Struct, frozen=True):
    """What a part makes: rows of `edge_events` and of `loss`, and rows that tell of rule chains.

    is_counted   whether the entry counts here as something heard of its edge: one of readings alone
                 counts where these are
    """

    events: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    rules: list[dict[str, Any]]
    is_counted: bool = True


class EventsProjector(CommitsEach):
    name = "events"

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live
        self._touched: set[str] = set()
        self._rules: list[dict[str, Any]] = []

    def blank(self) -> "EventsProjector":
        return EventsProjector(Live())

    def wants(self, records: Sequence[tuple[int, batch.Record]]) -> bool:
        return bool(records)

    def parts(self, entry: Entry, done: int) -> Iterator[Part]:
        """Yield the records beside telemetry in order; raises RecordError. See `Projector`."""
        if entry.codec in (Codec.DEAD, Codec.GAP):
            yield Part(entry, _instead(entry), 1, 0, True)
            return
        if entry.codec is Codec.PROPOSAL:  # the business of hubd/cells
            yield Part(entry, Rows([], [], [], is_counted=False), 1, 0, True)
            return
        records = batch.events(entry.codec, entry.payload, limit_bytes=ENTRY_BYTES_MAX)
        rows, cost = Rows([], [], [], is_counted=bool(records)), 1
        for nth in range(done, len(records)):
            index, record = records[nth]
            if record.kind in (RecordKind.CELLS, RecordKind.WINDOWS):
                continue  # the business of hubd/cells, and of the windows projector
            if record.kind == RecordKind.RESENT and _is_resent(record.body):
                continue  # the business of the telemetry projector
            if cost > PART_WORK:
                yield Part(entry, rows, cost, nth, False)
                rows, cost = Rows([], [], []), 1
            _read(entry, index, record, rows)
            cost += RECORD_COST + len(record.body) // BYTES_A_UNIT
        yield Part(entry, rows, cost, len(records), True)

    def apply(self, connection: sa.Connection, parts: Sequence[Part]) -> None:
        totals = Totals()
        rows: list[dict[str, Any]] = []
        losses: list[dict[str, Any]] = []
        for part in parts:
            new, lost = part.content.events, part.content.losses
            self._rules += part.content.rules
            rows += new
            losses += lost
            if part.content.is_counted:
                totals.add(
                    part.entry,
                    events=sum(row["status"] in (STORED, UNREADABLE) for row in new),
                    dead=sum(row["status"] == DEAD for row in new),
                    lost=sum(row["last"] - row["first"] + 1 for row in lost),
                )
        insert_rows(connection, tables.edge_events, rows)
        insert_rows(connection, tables.loss, losses)
        totals.store(connection)
        self.brought = any(part.content.is_counted for part in parts)
        self._touched = {row["edge"] for row in rows + self._rules}

    def committed(self) -> None:
        for edge in self._touched:
            self._live.touch(edge)
        for row in self._rules:
            self._live.rules.apply(
                row["edge"], row["type"], row["action"], row["body"], row["stored_at_ns"]
            )
        self._touched, self._rules = set(), []

    def undone(self) -> None:
        self._touched, self._rules = set(), []


def _is_resent(body: bytes) -> bool:
    try:
        resend.decode(body)
    except RecordError:
        return False
    return True


def _instead(entry: Entry) -> Rows:
    """Return the row of what stands in the log in place of records."""
    if entry.codec == Codec.DEAD:
        return Rows([_row(entry, 0, entry.first) | _refused(entry)], [], [])
    row = _row(entry, 0, entry.first) | {
        "status": LOST, "type": int(EventType.LOSS), "reason": entry.reason,
        "time_ns": entry.stored_at_ns,
    }  # fmt: skip
    return Rows([row], [_loss(entry, 0, entry.lane, entry.first, entry.last, entry.reason)], [])


def _read(entry: Entry, index: int, record: batch.Record, rows: Rows) -> None:
    """Add the rows that one record makes; one that cannot be read makes a row that says so."""
    row = _row(entry, index, entry.first + index) | _decoded(record.kind, record.body)
    row["origin"] = tables.signed(record.origin)
    row["number"] = tables.signed(record.number)
    if row["status"] == STORED and is_of_rules(row["type"], row["body"]):
        rows.rules.append(row)
        if row["type"] == EventType.RULES and row["action"] == Action.UPDATED:
            return  # what nodes have counted, each minute: no history is kept of that
    rows.events.append(row)
    told = _told_loss(row["body"]) if row["type"] == EventType.LOSS else None
    if told is not None and not told.policy:
        rows.losses.append(_loss(entry, index, told.lane, told.first, told.last, told.reason))


def _row(entry: Entry, nth: int, seq: int) -> dict[str, Any]:
    return {
        "position": entry.position, "nth": nth, "edge": entry.edge, "lane": int(entry.lane),
        "seq": tables.signed(seq), "origin": 0, "number": 0, "status": STORED, "type": 0,
        "action": 0, "entity_type": 0, "entity": "", "body": b"", "reason": "", "time_ns": 0,
        "created_ns": 0, "stored_at_ns": entry.stored_at_ns, "hlc": 0,
    }  # fmt: skip


def _decoded(kind: int, body: bytes) -> dict[str, Any]:
    if kind != RecordKind.EVENT:
        return {"status": UNREADABLE, "body": body, "reason": f"unknown kind of record: {kind}"}
    try:
        type_, action, entity_type, entity, content, time_ns, created_ns, hlc = event.decode(body)
    except RecordError as error:
        return {"status": UNREADABLE, "body": body, "reason": str(error)}
    reason = refusal_reason(type_, content)
    return {
        "status": DEAD if reason else STORED, "reason": reason,
        "type": type_, "action": action, "entity_type": entity_type, "entity": entity,
        "body": content, "time_ns": time_ns, "created_ns": created_ns, "hlc": tables.signed(hlc),
    }  # fmt: skip


def unreadable_row(entry: Entry, index: int, record: batch.Record, reason: str) -> dict[str, Any]:
    """Return the row of `edge_events` that stands for a record nobody can read."""
    return _row(entry, index, entry.first + index) | {
        "status": UNREADABLE, "body": record.body, "reason": reason,
        "origin": tables.signed(record.origin), "number": tables.signed(record.number),
        "time_ns": entry.stored_at_ns,
    }  # fmt: skip


def _refused(entry: Entry) -> dict[str, Any]:
    return {
        "status": DEAD, "body": entry.payload, "reason": entry.reason,
        "time_ns": entry.stored_at_ns,
    }  # fmt: skip


def _told_loss(body: bytes) -> LossBody | None:
    try:
        told = msgspec.convert(json.loads(body), LossBody)
        told.reason.encode()  # half of a pair of surrogates is no text that can be stored
    except (ValueError, RecursionError):
        return None
    return told


def _loss(entry: Entry, nth: int, lane: int, first: int, last: int, reason: str) -> dict[str, Any]:
    return {
        "position": entry.position, "nth": nth, "edge": entry.edge, "lane": int(lane),
        "first": tables.signed(first), "last": tables.signed(max(first, last)), "reason": reason,
        "time_ns": entry.stored_at_ns,
    }  # fmt: skip
