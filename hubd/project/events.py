"""The events projector: what edges told, what was refused for good, and what is lost."""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from edgesync._native import batch, event
from edgesync.errors import RecordError
from edgesync.model import EventType, RecordKind
from edgesync_transport.messages import Codec
from hubd.log.base import Entry
from hubd.project.live import Live
from hubd.project.totals import Totals
from hubd.state import tables

STORED: Final = "stored"
DEAD: Final = "dead"  # refused for good; kept as it came
LOST: Final = "lost"  # does not exist any more; the row stands in its place
UNREADABLE: Final = "unreadable"  # stored, but this hub cannot decode it

UNPACKED_LIMIT_BYTES: Final = 64 << 20


class LossBody(msgspec.Struct, frozen=True):
    """The body of a LOSS event.

    policy   what gave way in a full lane: the lane's gap says which of the records are missing here
    """

    lane: int
    first: int
    last: int
    reason: str = ""
    policy: str = ""


class EventsProjector:
    name = "events"

    def __init__(self, live: Live) -> None:
        self._live = live
        self._touched: set[str] = set()

    def apply(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        rows: list[dict[str, Any]] = []
        losses: list[dict[str, Any]] = []
        totals = Totals()
        for entry in entries:
            new_rows, new_losses = _read(entry)
            rows += new_rows
            losses += new_losses
            totals.add(
                entry,
                events=sum(row["status"] in (STORED, UNREADABLE) for row in new_rows),
                dead=sum(row["status"] == DEAD for row in new_rows),
                lost=sum(row["last"] - row["first"] + 1 for row in new_losses),
            )
        if rows:
            connection.execute(tables.edge_events.insert(), rows)
        if losses:
            connection.execute(tables.loss.insert(), losses)
        totals.store(connection)
        self._touched = {row["edge"] for row in rows}

    def committed(self) -> None:
        for edge in self._touched:
            self._live.touch(edge)
        self._touched = set()

    def undone(self) -> None:
        self._touched = set()


def _read(entry: Entry) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `edge_events` and of `loss` that one batch makes; raises RecordError."""
    if entry.codec == Codec.DEAD:
        return [_row(entry, 0, entry.first) | _refused(entry)], []
    if entry.codec == Codec.GAP:
        row = _row(entry, 0, entry.first) | {
            "status": LOST, "type": int(EventType.LOSS), "reason": entry.reason,
            "time_ns": entry.stored_at_ns,
        }  # fmt: skip
        return [row], [_loss(entry, 0, entry.lane, entry.first, entry.last, entry.reason)]
    _, records = batch.columns(entry.codec, entry.payload, limit_bytes=UNPACKED_LIMIT_BYTES)
    rows, losses = [], []
    for index, record in records:
        if record.kind in (RecordKind.CELLS, RecordKind.WINDOWS):
            continue  # the business of hubd/cells, and of the windows projector
        row = _row(entry, index, entry.first + index) | _decoded(record.kind, record.body)
        row["origin"] = tables.signed(record.origin)
        row["number"] = tables.signed(record.number)
        rows.append(row)
        told = _told_loss(row["body"]) if row["type"] == EventType.LOSS else None
        if told is not None and not told.policy:
            losses.append(_loss(entry, index, told.lane, told.first, told.last, told.reason))
    return rows, losses


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
    return {
        "type": type_, "action": action, "entity_type": entity_type, "entity": entity,
        "body": content, "time_ns": time_ns, "created_ns": created_ns, "hlc": tables.signed(hlc),
    }  # fmt: skip


def _refused(entry: Entry) -> dict[str, Any]:
    return {
        "status": DEAD, "body": entry.payload, "reason": entry.reason,
        "time_ns": entry.stored_at_ns,
    }  # fmt: skip


def _told_loss(body: bytes) -> LossBody | None:
    try:
        return msgspec.convert(json.loads(body), LossBody)
    except ValueError:
        return None


def _loss(entry: Entry, nth: int, lane: int, first: int, last: int, reason: str) -> dict[str, Any]:
    return {
        "position": entry.position, "nth": nth, "edge": entry.edge, "lane": int(lane),
        "first": tables.signed(first), "last": tables.signed(max(first, last)), "reason": reason,
        "time_ns": entry.stored_at_ns,
    }  # fmt: skip
