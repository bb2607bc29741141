"""Looking through the events a journal holds, with a status computed from positions (S5, S10)."""

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from edgesync._native import batch, event
from edgesync._native.batch import Record
from edgesync.errors import RecordError
from edgesync.model import Action, EventType, Lane, RecordKind, Value, ValueType
from edgesync.redaction import hidden_bytes
from edgesync.refusal import refusal_reason
from edgesync.status import EventView, LatestView
from edgesync.store.journal import EdgeStore

# Records read at a time, from the tail backwards.
STEP = 512
SHOWN_BODY_CHARS = 2000
# How far back the newest readings of a standing edge are looked for: a day of polls of a minute.
LATEST_RECORDS = 20_000


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events; empty means any. `text` is searched for in entity and body."""

    lane: str = ""
    type: str = ""
    action: str = ""
    entity: str = ""
    state: str = ""
    text: str = ""
    before: int = 0  # only seqs below this one, of each lane
    limit: int = 50


def find(
    store: EdgeStore,
    query: EventQuery,
    floors: Sequence[int],
    sent: Sequence[int],
    dead: set[tuple[str, int]],
) -> Iterator[EventView]:
    left = min(query.limit, 1000)
    for lane in Lane:
        if query.lane and lane.name.lower() != query.lane.lower():
            continue
        for seq, record in _backwards(store, lane, query.before):
            if left <= 0:
                return
            view = _view(lane, seq, record, floors[lane], sent[lane], dead)
            if view is not None and _matches(view, query):
                left -= 1
                yield view


def latest(store: EdgeStore, limit: int = LATEST_RECORDS) -> list[LatestView]:
    """Return the newest reading of each series in the newest `limit` records of the journal."""
    newest: dict[int, tuple[int, Value]] = {}
    left = limit
    for lane in Lane:
        for _, record in _backwards(store, lane, 0):
            left -= 1
            if left < 0:
                break
            if record.kind != RecordKind.READINGS:
                continue
            with contextlib.suppress(RecordError):
                time_ns, vtype, series, values = batch.parse_readings(record.body)
                for number, value in zip(series, values, strict=True):
                    shown = bool(value) if vtype == ValueType.BOOL else value
                    newest.setdefault(number, (time_ns, shown))
    views = []
    for number, (time_ns, value) in newest.items():
        series_ = store.series.get(number)
        entity, key, unit = (series_.entity, series_.key, series_.unit) if series_ else ("", "", "")
        views.append(
            LatestView(
                entity=entity, key=key or f"{number:016x}", value=value, unit=unit, time_ns=time_ns
            )
        )
    return sorted(views, key=lambda view: (view.entity, view.key))


def record_at(store: EdgeStore, lane: Lane, seq: int) -> Record | None:
    """Return the record at `seq`, or None when it is no longer there."""
    rows = store.read(lane, seq, limit_records=1)
    if rows.first != seq or rows.last < seq:
        return None
    return batch.records(rows.data)[0]


def _backwards(store: EdgeStore, lane: Lane, before: int) -> Iterator[tuple[int, Record]]:
    state = store.state(lane)
    last = min(state.tail, before - 1) if before else state.tail
    while last > state.trimmed:
        first = max(state.trimmed + 1, last - STEP + 1)
        rows = store.read(lane, first, limit_records=last - first + 1)
        records = batch.records(rows.data)
        for offset in range(len(records) - 1, -1, -1):
            yield rows.first + offset, records[offset]
        last = first - 1


def _view(
    lane: Lane, seq: int, record: Record, floor: int, sent: int, dead: set[tuple[str, int]]
) -> EventView | None:
    if record.kind != RecordKind.EVENT:
        return None
    try:
        kind, action, _, entity, body, time_ns, _, _ = event.decode(record.body)
    except RecordError:
        return None
    if (lane.name.lower(), seq) in dead or refusal_reason(kind, body):
        state = "DEAD"
    elif seq <= floor:
        state = "DEPLOYED"
    else:
        state = "IN_FLIGHT" if seq <= sent else "PENDING"
    return EventView(
        lane=lane.name.lower(),
        seq=seq,
        event_id=f"{record.origin:016x}{record.number:016x}",
        type=_name(EventType, kind),
        action=_name(Action, action),
        entity=entity,
        time_ns=time_ns,
        state=state,
        body=hidden_bytes(body).decode("utf-8", "replace")[:SHOWN_BODY_CHARS],
    )


def _name(kind: type[EventType] | type[Action], number: int) -> str:
    try:
        return kind(number).name
    except ValueError:
        return str(number)  # of a newer edgesync: kept and shown as it is


def _matches(view: EventView, query: EventQuery) -> bool:
    return (
        (not query.type or view.type.lower() == query.type.lower())
        and (not query.action or view.action.lower() == query.action.lower())
        and (not query.entity or view.entity == query.entity)
        and (not query.state or view.state.lower() == query.state.lower())
        and (not query.text or query.text in view.body or query.text in view.entity)
    )
