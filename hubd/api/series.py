"""Answers about the history of a series, and about an edge's events."""

from typing import Final, Literal

import sqlalchemy as sa

from edgesync.model import Action, EventType
from edgesync_transport.messages import Lane
from hubd.api.answers import Buckets, Events, FleetEvents, History, Raw, Windows
from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.fleet import edges_of, known_edge
from hubd.api.params import (
    EventsPage,
    FleetEventsPage,
    HistoryPage,
    Int64,
    WindowsPage,
    make_cursor,
    parse_time,
    read_cursor,
)
from hubd.state import points, views
from hubd.state.rollups import HOUR_NS, HOURS, MINUTES, Bucket, Level
from hubd.state.views import EventFilter, SeriesRow
from hubd.state.windows import WindowQuery
from hubd.state.windows import page as window_page

Grain = Literal["raw", "1m", "1h"]
ROLLUPS: Final = {"1m": MINUTES, "1h": HOURS}
SECOND_NS: Final = 1_000_000_000
END_NS: Final = (1 << 63) - 1
FIRST_EVENT: Final = (1 << 63) - 1


async def history(context: Context, params: HistoryPage) -> History:
    row, from_ns, to_ns = await _asked_series(context, params)
    return await context.state.read(lambda c: _page(c, params, row, from_ns, to_ns))


async def _asked_series(
    context: Context, params: HistoryPage | WindowsPage
) -> tuple[SeriesRow, int, int]:
    """The series asked for, and the range; raises ApiError."""
    known_edge(context, params.edge)
    now_ns = context.now_ns()
    from_ns = parse_time(params.from_, now_ns - HOUR_NS, now_ns, "from")
    to_ns = parse_time(params.to, END_NS, now_ns, "to")
    if to_ns <= from_ns:
        raise ApiError(400, "`to` is not after `from`", field="to", remedy="a later time")
    found = await context.state.read(
        lambda c: views.find_series(c, params.edge, params.entity, params.key)
    )
    if found is None:
        remedy = f"GET /api/v1/edges/{params.edge}/series lists them"
        raise ApiError(404, "no such series", field="key", remedy=remedy)
    return found, from_ns, to_ns


def _page(
    connection: sa.Connection, params: HistoryPage, row: SeriesRow, from_ns: int, to_ns: int
) -> History:
    # The grain is in the cursor: `auto` must not change its mind between two pages.
    chosen, at_ns, n = read_cursor(
        params.after, tuple[Grain, Int64, Int64], ("raw", *points.NOWHERE)
    )
    grain: Grain
    minutes: list[Bucket] = []
    if params.after is not None:
        grain = chosen
    elif params.resolution == "auto":
        grain, minutes = _fitting(connection, row, from_ns, to_ns, params.limit)
    else:
        grain = params.resolution
    raw = buckets = following = None
    if grain == "raw":
        found = points.page(connection, row.ref, from_ns, to_ns, (at_ns, n), params.limit)
        raw = Raw(time_ns=[p.time_ns for p in found], value=[p.value for p in found])
        if len(found) == params.limit:
            following = make_cursor(grain, found[-1].time_ns, found[-1].n)
    else:
        level = ROLLUPS[grain]
        rows = minutes or points.bucket_page(
            connection, level, row.ref, _first_ns(level, from_ns), to_ns, at_ns, params.limit
        )
        buckets = _columns(rows)
        if len(rows) == params.limit:
            following = make_cursor(grain, buckets.time_ns[-1], 0)
    return History(
        edge=row.edge, entity=row.entity, key=row.key, unit=row.unit, type=row.type,
        series=f"{row.series:016x}", resolution=grain, from_ns=from_ns, to_ns=to_ns, raw=raw,
        buckets=buckets, next=following,
    )  # fmt: skip


def _first_ns(level: Level, from_ns: int) -> int:
    """Return where the bucket begins that `from_ns` lies in: it counts, too."""
    return max(from_ns - from_ns % level.width_ns, -(1 << 63))


def _fitting(
    connection: sa.Connection, row: SeriesRow, from_ns: int, to_ns: int, limit: int
) -> tuple[Grain, list[Bucket]]:
    """The finest resolution at which the range is about one page; minutes come with their page."""
    if row.type == "text":
        return "raw", []
    if not points.has_more_than(connection, row.ref, from_ns, to_ns, limit):
        return "raw", []
    begin_ns = _first_ns(MINUTES, from_ns)
    minutes = points.bucket_page(
        connection, MINUTES, row.ref, begin_ns, to_ns, points.NOWHERE[0], limit + 2
    )
    if sum(minute.start_ns >= from_ns for minute in minutes) > limit:
        return "1h", []
    return "1m", minutes[:limit]


def _columns(rows: list[Bucket]) -> Buckets:
    return Buckets(
        time_ns=[row.start_ns for row in rows],
        count=[row.points for row in rows],
        min=[row.min for row in rows],
        max=[row.max for row in rows],
        mean=[row.sum / row.points for row in rows],
        sum=[row.sum for row in rows],
        first=[row.first for row in rows],
        last=[row.last for row in rows],
    )


async def windows(context: Context, params: WindowsPage) -> Windows:
    row, from_ns, to_ns = await _asked_series(context, params)
    merge_s = params.merge_s or params.width_s
    if merge_s % params.width_s:
        raise ApiError(
            400, f"windows of {params.width_s} s do not fill {merge_s} s", field="merge_s",
            remedy=f"a multiple of {params.width_s}",
        )  # fmt: skip
    (after_ns,) = read_cursor(params.after, tuple[Int64], (points.NOWHERE[0],))
    wanted = WindowQuery(
        edge=params.edge, series=row.series, width_ns=params.width_s * SECOND_NS,
        merge_ns=merge_s * SECOND_NS, from_ns=max(from_ns, after_ns), to_ns=to_ns,
    )  # fmt: skip
    found, has_more = await context.state.read(lambda c: window_page(c, wanted, params.limit))
    following = make_cursor(found[-1].start_ns + wanted.merge_ns) if has_more else None
    return Windows(
        edge=row.edge, entity=row.entity, key=row.key, unit=row.unit, width_s=params.width_s,
        merge_s=merge_s, windows=found, next=following,
    )  # fmt: skip


async def edge_events(context: Context, params: EventsPage) -> Events:
    found = await fleet_events(context, params)
    return Events(edge=params.edge, events=found.events, next=found.next)


async def fleet_events(context: Context, params: FleetEventsPage) -> FleetEvents:
    """Answer with events of one edge or of all, the newest first."""
    if params.edge is not None:
        known_edge(context, params.edge)
    now_ns = context.now_ns()
    has_from, has_to = params.from_ is not None, params.to is not None
    wanted = EventFilter(
        edge=params.edge,
        type=_number(EventType, params.type, "type"),
        action=_number(Action, params.action, "action"),
        entity=params.entity,
        lane=None if params.lane is None else int(Lane[params.lane.upper()]),
        status=params.status,
        text=params.text,
        edges=edges_of(context) if params.edge is None else None,
        from_ns=parse_time(params.from_, 0, now_ns, "from") if has_from else None,
        to_ns=parse_time(params.to, 0, now_ns, "to") if has_to else None,
    )
    (before,) = read_cursor(params.after, tuple[Int64], (FIRST_EVENT,))
    found, least = await context.state.read(
        lambda c: views.event_page(c, wanted, before, params.limit)
    )
    return FleetEvents(events=found, next=None if least is None else make_cursor(least))


def _number(kind: type[EventType] | type[Action], text: str | None, field: str) -> int | None:
    """A kind by name or number; numbers nobody knows yet are fine, names are not."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    try:
        return int(kind[text.upper()])
    except KeyError:
        names = ", ".join(member.name.lower() for member in kind)
        raise ApiError(
            400, f"no {field} {text!r}", field=field, remedy=f"one of {names}, or a number"
        ) from None
