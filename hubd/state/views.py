"""Questions about the state, each answered by one or two statements."""

import functools
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from edgesync.model import Action, EntityType, EventType, Value, ValueType, series_id
from edgesync.redaction import hidden_bytes
from edgesync.refusal import refusal_reason
from edgesync_transport.messages import Lane
from hubd.db.dialect import Text, as_text, indexed
from hubd.state import tables
from hubd.state.fresh import EdgeFresh, fresh_of
from hubd.state.pieces import from_bits

# Of events, for one page of those that fit.
LOOKED_AT_MAX: Final = 20_000


class SeriesRow(msgspec.Struct, frozen=True, kw_only=True):
    """A series and its newest reading; the names are empty until its declaration arrives."""

    ref: int
    edge: str
    series: int
    entity: str
    key: str
    unit: str
    type: str
    points: int
    time_ns: int
    value: Value


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What the state holds of one edge.

    refused   readings of series beyond `[limits] series`: in the log only
    """

    edge: str
    readings: int = 0
    events: int = 0
    dead: int = 0
    lost: int = 0
    series: int = 0
    refused: int = 0
    stored_at_ns: int = 0


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    edge: str | None = None
    type: int | None = None
    action: int | None = None
    entity: str | None = None
    lane: int | None = None
    status: str | None = None
    text: str | None = None
    edges: list[str] | None = None
    from_ns: int | None = None
    to_ns: int | None = None


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an edge. `body` is its JSON where it is JSON, else text or hex."""

    n: int
    edge: str
    lane: str
    seq: int
    id: str
    status: str
    type: str
    action: str
    entity_type: str
    entity: str
    body: Any
    reason: str
    time_ns: int
    created_ns: int
    stored_at_ns: int


class SkipRow(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the log that a projector could not use."""

    name: str
    position: int
    edge: str
    error: str


def series_of(connection: sa.Connection, edge: str, after: int, limit: int) -> list[SeriesRow]:
    """Series of an edge with their newest readings, by ref, which must be > `after`."""
    where = (tables.series.c.edge == edge) & (tables.series.c.ref > after)
    return list(islice(_series_rows(connection, where), limit))


def series_of_entity(
    connection: sa.Connection, edge: str, entity: str, limit: int
) -> list[SeriesRow]:
    """Return series of an entity with their newest readings, as they were declared."""
    where = (tables.series.c.edge == edge) & (tables.series.c.entity == entity)
    return list(islice(_series_rows(connection, where), limit))


def find_series(connection: sa.Connection, edge: str, entity: str, key: str) -> SeriesRow | None:
    """Return a series by its name, once it is declared."""
    table = tables.series.c
    wanted = tables.signed(series_id(entity, key))  # what the index has of the name
    where = (table.edge == edge) & (table.series == wanted)
    where &= (table.entity == entity) & (table.key == key)
    return next(_series_rows(connection, where), None)


def series_by_id(connection: sa.Connection, edge: str, series: int) -> SeriesRow | None:
    table = tables.series.c
    where = (table.edge == edge) & (table.series == tables.signed(series))
    return next(_series_rows(connection, where), None)


def totals(connection: sa.Connection, edges: Sequence[str] | None = None) -> dict[str, Totals]:
    """Return what the state holds, by edge; of some only, if they are named."""
    table = tables.edge_totals
    question = sa.select(table)
    fresh = fresh_of(connection).edges
    if edges is None:
        fresh = fresh.copy()
    else:
        question = question.where(table.c.edge.in_(edges))
        fresh = {edge: one for edge in edges if (one := fresh.get(edge)) is not None}
    found = {
        row.edge: Totals(
            edge=row.edge, readings=row.readings, events=row.events, dead=row.dead, lost=row.lost,
            series=row.series, refused=row.refused, stored_at_ns=row.stored_at_ns,
        )
        for row in connection.execute(question)
    }  # fmt: skip
    for name, one in fresh.items():
        if one.since:
            found[name] = _with_fresh(found.get(name, Totals(edge=name)), one)
    return found


def over_limit(connection: sa.Connection, limit: int) -> list[Totals]:
    """Return edges some of whose readings were refused, by name."""
    table = tables.edge_totals.c
    question = sa.select(table.edge, table.refused).where(table.refused > 0).order_by(table.edge)
    found = {row.edge: row.refused for row in connection.execute(question.limit(limit))}
    for edge, fresh in fresh_of(connection).edges.copy().items():
        if fresh.refused:
            found[edge] = found.get(edge, 0) + fresh.refused
    return [Totals(edge=edge, refused=found[edge]) for edge in sorted(found)[:limit]]


def event_page(
    connection: sa.Connection, wanted: EventFilter, before: int, limit: int
) -> tuple[list[EventRow], int | None]:
    """A page of `events`, and the `n` that the next one is before; None at the end.

    At most LOOKED_AT_MAX rows are looked at, so a page may be empty and not the last.
    """
    table = tables.edge_events.c
    where = [table.n < before]
    if wanted.edge is not None:  # what an index leads to
        where.append(table.edge == wanted.edge)
        if wanted.entity is not None:
            where.append(_is_of(wanted.entity))
        elif wanted.type is not None:
            where.append(table.type == wanted.type)
    question = sa.select(table.n).where(*where).order_by(table.n.desc())
    least = connection.scalar(question.limit(1).offset(LOOKED_AT_MAX - 1))
    rows = _rows(connection, wanted, before, limit, least)
    found = [_event_row(row) for row in rows if _is_shown(row, wanted.text)]
    return found, rows[-1].n if len(rows) == limit else least


def events(
    connection: sa.Connection, wanted: EventFilter, before: int | None, limit: int
) -> list[EventRow]:
    """The newest events first, older than `before` (their `n`)."""
    rows = _rows(connection, wanted, before, limit)
    return [_event_row(row) for row in rows if _is_shown(row, wanted.text)]


def _rows(
    connection: sa.Connection,
    wanted: EventFilter,
    before: int | None,
    limit: int,
    least: int | None = None,
) -> list[sa.Row[Any]]:
    """Rows of events, the newest first, older than `before`, from `least` on."""
    table = tables.edge_events.c
    equal = {name: getattr(wanted, name) for name in _EQUAL}
    where = [table[name] == value for name, value in equal.items() if value is not None]
    if wanted.entity is not None:
        where.append(_is_of(wanted.entity))
    if wanted.edges is not None:
        where.append(table.edge.in_(wanted.edges))
    if wanted.from_ns is not None:
        where.append(table.time_ns >= wanted.from_ns)
    if wanted.to_ns is not None:
        where.append(table.time_ns < wanted.to_ns)
    if wanted.text is not None:
        where.append(
            as_text(table.body).icontains(wanted.text, autoescape=True)
            | table.reason.icontains(wanted.text, autoescape=True)
            | table.entity.icontains(wanted.text, autoescape=True)
        )
    if before is not None:
        where.append(table.n < before)
    if least is not None:
        where.append(table.n >= least)
    question = sa.select(tables.edge_events).where(*where).order_by(table.n.desc()).limit(limit)
    return list(connection.execute(question))


def _is_shown(row: sa.Row[Any], text: str | None) -> bool:
    """Return whether what was asked for is in what is shown: else `text` would find secrets out."""
    if text is None or (shown := hidden_bytes(row.body)) == row.body:
        return True
    seen = (shown.decode(errors="replace"), row.reason, row.entity)
    return any(text.lower() in one.lower() for one in seen)


def device_events(connection: sa.Connection, edge: str, limit: int) -> list[EventRow]:
    """The newest event on the state of each device of `edge`, by name, of its newest `limit`.

    That a message of a device was refused says nothing of whether it is there.
    """
    table = tables.edge_events
    question = (
        sa.select(table)
        .where(table.c.edge == edge, table.c.type == int(EventType.SOURCE))
        .order_by(table.c.n.desc())
        .limit(limit)
    )
    found: dict[str, EventRow] = {}
    for row in connection.execute(question):
        if row.entity not in found and not refusal_reason(row.type, row.body):
            found[row.entity] = _event_row(row)
    return [found[entity] for entity in sorted(found)]


def resources_of(connection: sa.Connection, edge: str) -> EventRow | None:
    """Return the newest report of an edge on its own resources."""
    wanted = EventFilter(
        edge=edge, type=int(EventType.LIFECYCLE), text='"what":"resources"',
    )  # fmt: skip
    return next(iter(events(connection, wanted, None, 1)), None)


def skips(connection: sa.Connection, limit: int, edges: list[str] | None = None) -> list[SkipRow]:
    """The newest entries that projectors skipped, of some edges only if they are named."""
    table = tables.projector_skip
    question = sa.select(table).order_by(table.c.position.desc()).limit(limit)
    if edges is not None:
        question = question.where(table.c.edge.in_(edges))
    rows = connection.execute(question)
    return [
        SkipRow(name=row.name, position=row.position, edge=row.edge, error=row.error)
        for row in rows
    ]


def _is_of(entity: str) -> sa.ColumnElement[bool]:
    return indexed(tables.edge_events.c.entity) == indexed(sa.literal(entity, Text))


_EQUAL = ("edge", "type", "action", "entity", "lane", "status")


def _with_fresh(stored: Totals, fresh: EdgeFresh) -> Totals:
    return msgspec.structs.replace(
        stored,
        readings=stored.readings + fresh.readings,
        refused=stored.refused + fresh.refused,
        stored_at_ns=max(stored.stored_at_ns, fresh.stored_at_ns),
    )


def _series_rows(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Iterator[SeriesRow]:
    """Yield series that have readings, by ref."""
    table, newest = tables.series, tables.latest
    question = (
        sa.select(table, *(column for column in newest.c if column is not newest.c.ref))
        .join_from(table, newest, newest.c.ref == table.c.ref, isouter=True)
        .where(where)
        .order_by(table.c.ref)
    )
    edges = fresh_of(connection).edges
    # By place, not by name: a question about an edge reads a thousand of them.
    for row in connection.execute(question):
        ref, edge, series, entity, key, unit, points, time_ns, vtype, bits, text = row
        number, value = tables.unsigned(series), None
        fresh = edges.get(edge)
        tail = fresh.table.tail(number) if fresh is not None else None
        if tail is not None:
            points = tail[0]
            if tail[1] is not None:
                _, time_ns, vtype, value = tail
        elif points is None:
            continue
        if value is None:
            value = from_bits(vtype, bits, text)
        yield SeriesRow(
            ref=ref, edge=edge, series=number, entity=entity or "", key=key or "", unit=unit,
            type=_type_name(vtype), points=points, time_ns=time_ns, value=value,
        )  # fmt: skip


@functools.cache
def _type_name(vtype: int) -> str:
    return name_of(ValueType, vtype)


def _event_row(row: sa.Row[Any]) -> EventRow:
    return EventRow(
        n=row.n, edge=row.edge, lane=name_of(Lane, row.lane), seq=tables.unsigned(row.seq),
        id=f"{tables.unsigned(row.origin):016x}{tables.unsigned(row.number):016x}",
        status=row.status, type=name_of(EventType, row.type), action=name_of(Action, row.action),
        entity_type=name_of(EntityType, row.entity_type), entity=row.entity,
        body=readable(row.body), reason=row.reason, time_ns=row.time_ns,
        created_ns=row.created_ns, stored_at_ns=row.stored_at_ns,
    )  # fmt: skip


def name_of(kind: type[Any], number: int) -> str:
    """The name a number has, or the number itself: a newer edge may know more kinds."""
    try:
        return str(kind(number).name).lower()
    except ValueError:
        return str(number)


def readable(body: bytes) -> Any:
    """Bytes as a person may read them: the JSON they are, the text, else hex, without secrets."""
    body = hidden_bytes(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body.hex()
    try:
        # msgspec turns whole numbers beyond 64 bits into floats, so it can also write them.
        return msgspec.json.decode(text) if text else None
    except (ValueError, RecursionError):
        return text
